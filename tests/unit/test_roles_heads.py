"""Which layers are taken for output heads, and what is said about a guess."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from anthology.norms import metrize


class Tied(nn.Module):
    """The head is registered first, and given to the table."""

    def __init__(self) -> None:
        super().__init__()
        self.out_of_order = nn.Linear(8, 50)
        self.embed = nn.Embedding(50, 8)
        self.block = nn.Linear(8, 8)
        self.embed.weight = self.out_of_order.weight


class Head(nn.Module):
    """One head of attention, called as such."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.query = nn.Linear(8, 4), nn.Linear(8, 4)
        self.value = nn.Linear(8, 4)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([Head(), Head()])
        self.proj = nn.Linear(8, 8)
        self.up, self.out = nn.Linear(8, 32), nn.Linear(32, 8)


def named(**parts: nn.Module) -> nn.Module:
    return nn.ModuleDict(parts)


def heads(model: nn.Module, **options) -> list[str]:
    return [
        row.name.removesuffix(".weight")
        for row in metrize(model, **options).rows
        if row.role == "head"
    ]


def squeeze() -> nn.Module:
    gate = nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 8))
    return named(c=nn.Conv2d(3, 8, 3), se=gate, out=nn.Conv2d(8, 3, 1))


def actor_critic() -> nn.Module:
    return named(body=nn.Linear(4, 64), policy=nn.Linear(64, 6), value=nn.Linear(64, 1))


def trunk(*after: tuple[str, nn.Module], blocks: int = 2) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        layers = nn.ModuleList(Block() for _ in range(blocks))
        return named(embed=nn.Embedding(50, 8), layers=layers, **dict(after))

    return build


def classes(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, width))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (Tied, []),
        (squeeze, []),
        (actor_critic, ["policy", "value"]),
        (trunk(), []),
        (trunk(blocks=1), []),
        (trunk(("norm", nn.LayerNorm(8))), []),
        (trunk(("lm_head", nn.Linear(8, 50)), ("v", nn.Linear(8, 1))), ["lm_head"]),
        (trunk(("to_vocab", nn.Linear(8, 50)), ("v", nn.Linear(8, 1))), ["to_vocab"]),
        (trunk(("classifier", classes(3))), ["classifier.2"]),
        (trunk(("classifier", classes(8))), ["classifier.2"]),
        (trunk(("lm_head", classes(8)), ("decoder", nn.Linear(8, 50))), ["decoder"]),
        (trunk(("head", nn.Sequential(classes(3), nn.Conv1d(3, 2, 1)))), []),
        (trunk(("pooler", nn.ModuleDict({"dense": nn.Linear(8, 8)}))), []),
        (
            trunk(("heads", nn.ModuleDict({"a": classes(3), "b": nn.Linear(8, 2)}))),
            ["heads.a.2", "heads.b"],
        ),
        (lambda: named(head=nn.Linear(64, 10), body=nn.Linear(4, 64)), ["head"]),
        (lambda: named(value_head=nn.Linear(9, 1), q=nn.Linear(9, 9)), ["value_head"]),
        (lambda: classes(16), ["2"]),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), classes(4)), ["1.2"]),
        (lambda: nn.Linear(4, 4), [""]),
        (lambda: named(a=nn.Linear(4, 9), b_projection=nn.Linear(9, 5)), []),
        (Block, ["out"]),
        (Head, []),
    ],
)
def test_heads_that_are_known(build, expected: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = metrize(build())
    found = [r.name.removesuffix("weight").rstrip(".") for r in table.rows]
    assert [
        n for n, r in zip(found, table.rows, strict=True) if r.role == "head"
    ] == expected
    assert "guess" not in str(table)


def test_a_guess_is_marked_and_quiet_where_it_looks_right() -> None:
    model = named(a=nn.Linear(4, 64), b=nn.Linear(64, 64), c=nn.Linear(64, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = metrize(model)
    assert [r.why for r in table.rows if r.role == "head"] == [
        "last linear layer: a guess"
    ]
    assert [r.name for r in table.rows if r.role == "head"] == ["c.weight"]
    two = named(a=nn.Linear(4, 64), pi=nn.Linear(64, 6), v=nn.Linear(64, 1))
    assert heads(two) == ["pi", "v"]


def test_a_doubtful_guess_is_said_once() -> None:
    model = named(down=nn.Linear(64, 8), up=nn.Linear(8, 64))
    with pytest.warns(UserWarning, match="'up', the last linear layer") as said:
        assert heads(model) == ["up"]
    assert len(said) == 1
    assert said[0].filename == __file__
    for head in (None, False, []):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert heads(model, head=head) == []


def test_a_table_that_muon_would_take_is_said() -> None:
    model = named(a=nn.Linear(8, 8), head=nn.Linear(8, 50))
    model.register_parameter("W_E", nn.Parameter(model["head"].weight.detach().clone()))
    with pytest.warns(UserWarning, match="'W_E' is a matrix by its shape alone"):
        metrize(model)


@pytest.mark.parametrize(
    "wrap",
    [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.orthogonal],
)
def test_a_parametrised_head_is_found(wrap) -> None:
    model = named(body=wrap(nn.Linear(6, 6)), head=wrap(nn.Linear(6, 3)))
    found = {r.name: r.role for r in metrize(model).rows if "parametriz" in r.name}
    matrices = {n: role for n, role in found.items() if not n.endswith("original0")}
    assert sorted(matrices.values()) == ["head", "linear"]
    gains = {role for n, role in found.items() if n.endswith("original0")}
    assert gains <= {"gain"}
    assert heads(model, head="head") == heads(model)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_older_hooks() -> None:
    model = nn.Sequential(
        nn.utils.weight_norm(nn.Linear(6, 6)),
        nn.utils.spectral_norm(nn.Linear(6, 6)),
        nn.utils.weight_norm(nn.Conv1d(6, 4, 3)),
        nn.utils.weight_norm(nn.LSTM(4, 5), "weight_hh_l0"),
    )
    found = {r.name: r.role for r in metrize(model).rows}
    assert found["0.weight_g"] == found["2.weight_g"] == "gain"
    assert found["0.weight_v"] == found["1.weight_orig"] == "linear"
    assert found["2.weight_v"] == "conv"
    assert found["3.weight_hh_l0_v"] == "recurrent"


def test_an_embedding_owns_a_tied_weight() -> None:
    (row,) = (r for r in metrize(Tied()).rows if r.shared)
    assert row.name == "out_of_order.weight"
    assert (row.role, row.shared) == ("embedding", ("embed.weight",))


def test_what_is_put_around_a_model_changes_nothing() -> None:
    plain = classes(16)
    compiled = torch.compile(plain)
    assert heads(compiled) == ["_orig_mod.2"]
    assert "guess" not in str(metrize(compiled))
