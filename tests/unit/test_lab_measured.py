"""Results of the benchmark as a page shows them, and the table of least costs."""

import json

import pytest

from anthology import lab, optim


def row(name, seconds, ours, family="Lion", of="gpt", **more):
    found = {"set": of, "family": family, "name": name, "ours": ours}
    found |= {"numbers": 100, "largest": 50, "state_bytes": 400, "peak_bytes": 100}
    found |= {"summary": {"seconds": seconds}, "reached": None, "limit": None}
    if ours:
        found |= {"limit": {"seconds": 1.0}, "reached": 1.0 / seconds}
    return found | {"efficiency": None} | more


ROWS = [
    row("Lion loop", 8.0, True),
    row("Lion fused", 2.0, True),
    row("theirs", 4.0, False),
    row("Lion fused", 6.0, True, of="small"),
    row("theirs", 4.0, False, of="small"),
    row("alone", 5.0, True, family="own"),
    {**row("absent", 1.0, False), "summary": None},
]


def write(folder, rows=ROWS, kind="cpu-2-threads", date="2026-01-02", threads=2):
    content = {
        "machine": {
            "kind": kind,
            "processor": "a processor",
            "threads": threads,
            "date": date,
            "versions": {"torch": "2.6"},
        },
        "samples": {"all": 30, "clean": 20, "noisy rows": 1},
        "rates": {
            "bandwidth": [[100, 8e9], [1000, 2e9]],
            "matmul": {"float32": 1e11},
        },
        "sets": {"gpt": "a transformer", "small": "many small ones"},
        "results": rows,
    }
    path = folder / f"{kind}-{date}.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_ratios_are_of_the_fastest_of_each_side(tmp_path):
    write(tmp_path)
    (run,) = lab.measured(tmp_path)
    table = run.ratios()
    assert table.head == ("update rule", "gpt", "small")
    assert table.rows == (("Lion", "0.50", "1.50"),)  # who has no peer is left out
    assert run.shares().rows == (("Lion", "50 %", "17 %"), ("own", "20 %", "–"))
    assert "1 of 2 cases" in run.sentence() and "1.50" in run.sentence()
    assert run.title == "a processor, 2 threads, 2026-01-02"
    names = [line[0] for line in run.times("gpt").rows]
    assert names == ["Lion fused", "theirs", "alone"]
    assert run.times("gpt").rows[0] == ("Lion fused", "2000.00", "4.0", "0.50")
    where = dict(run.where().rows)
    assert where["bandwidth, largest set"] == "2 GB/s"
    assert where["samples"] == "30, of which undisturbed 20"


def test_less_efficient_steps_do_not_count_where_there_are_better_ones(tmp_path):
    rows = [
        row("rough", 1.0, True, efficiency=0.7),
        row("fine", 3.0, True, efficiency=0.9),
        row("theirs", 2.0, False, efficiency=0.9),
    ]
    write(tmp_path, rows)
    (run,) = lab.measured(tmp_path)
    assert run.ratios().rows == (("Lion", "1.50", "–"),)
    write(tmp_path, [rows[0], rows[2]])
    (run,) = lab.measured(tmp_path)
    assert run.ratios().rows == (("Lion", "0.50 *", "–"),)


def test_the_latest_of_each_kind_most_threads_first(tmp_path):
    write(tmp_path, date="2025-12-31")
    write(tmp_path, kind="cpu-1-threads", threads=1)
    write(tmp_path, kind="NVIDIA-X", date="2026-03-01")
    write(tmp_path)
    (tmp_path / "other-2026-01-01.json").write_text("{}", encoding="utf-8")
    found = [run.title for run in lab.measured(tmp_path)]
    assert found == [
        "a processor, 2 threads, 2026-01-02",
        "a processor, 1 thread, 2026-01-02",
        "a processor, 2026-03-01",
    ]


def test_without_results_it_is_said_where_they_come_from(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m benchmarks --save"):
        lab.measured(tmp_path / "nowhere")


def test_the_figure_shows_what_there_is(tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    write(tmp_path)
    (run,) = lab.measured(tmp_path)
    left, right = lab.limit_shares(run, ["gpt", "small"]).axes
    assert [bar.get_width() for bar in left.patches] == [50.0, 20.0]
    assert [bar.get_width() for bar in right.patches] == [100 / 6]
    assert left.collections[0].get_offsets().tolist() == [[25.0, 0.0]]
    (only,) = lab.limit_shares(run, ["gpt", "unknown"]).axes
    assert only.get_title() == "gpt"
    assert len(lab.limit_shares(run, ["unknown"]).axes) == 2
    write(tmp_path, [row("alone", 5.0, True, family="own")])
    assert lab.limit_shares(lab.measured(tmp_path)[0]).axes


def test_tables_escape_and_read_as_text():
    table = lab.Table("a < b", ("x", "y & z"), (("<i>", "1"), ("long name", "20")))
    assert repr(table).splitlines()[1:] == [
        "x         | y & z",
        "<i>       | 1",
        "long name | 20",
    ]
    found = table._repr_html_()
    assert "&lt;i&gt;" in found and "<i>" not in found
    assert '<th scope="col"><span>y &amp; z</span></th>' in found
    assert '<th scope="row">long name</th><td>20</td>' in found


def test_least_costs_are_those_of_the_limit():
    rules = {"AdamW": optim.AdamW, "Muon": optim.Muon}
    table = lab.least_costs(rules, (100, 400))
    flops = (3 * 100**2 * 400 + 17 * 100**3) / 40000
    assert table.rows == (("AdamW", "28", "8", "0"), ("Muon", "20", "4", f"{flops:g}"))


def test_the_page_reads_the_results_that_are_there():
    """Every saved result of the repository can be shown."""
    from pathlib import Path

    folder = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
    for run in lab.measured(folder):
        assert run.ratios().rows and run.shares().rows and run.where().rows
        assert all(run.times(name).rows for name in run.sets)
        assert run.title in run.sentence()
