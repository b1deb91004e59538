"""The least cost of a step, against figures worked out by hand."""

import copy
import math

import pytest
import torch
from torch import nn

from anthology import optim
from anthology.cost import Rates, Work, device_rates, flops, limit
from anthology.norms import RMSToRMS, Split, metrize

RATES = Rates(
    ((1000, 8e9), (1100, 1e9), (2**50, 1e9)), {"float32": 1e12, "bfloat16": 4e12}
)
M, N = 96, 160  # m ≤ n


def of(maker, *shapes, dtype=torch.float32, symmetric=True):
    params = [torch.zeros(s, dtype=dtype, requires_grad=True) for s in shapes]
    return limit(maker, params, rates=RATES, symmetric=symmetric)


def with_batch(cls, **kwargs):
    return lambda p: cls(p, batch_size=32, **kwargs)


BYTES = [  # bytes a single-precision parameter and step, and of state
    (optim.SGD, 12, 0),
    (lambda p: optim.SGD(p, momentum=0.9), 20, 4),
    (lambda p: torch.optim.SGD(p, momentum=0.9), 20, 4),
    (lambda p: optim.SGD(p, normalised=True), 16, 0),
    (lambda p: optim.SGD(p, momentum=0.9, normalised=True), 24, 4),
    (optim.Signum, 20, 4),
    (optim.Lion, 20, 4),
    (optim.Adam, 28, 8),
    (optim.AdamW, 28, 8),
    (torch.optim.AdamW, 28, 8),
    (lambda p: optim.AdamW(p, fused=True), 28, 8),
    (lambda p: torch.optim.AdamW(p, fused=True), 28, 8),
    (lambda p: optim.AdamW(p, amsgrad=True), 36, 12),
    (with_batch(optim.RootFreeRMSProp, momentum=0.0), 20, 4),
    (with_batch(optim.RootFreeRMSProp), 28, 8),
    (with_batch(optim.RootFreeAdamW), 28, 8),
    # g, w, w₀, s twice; then g, and m, v, w twice
    (optim.Prodigy, 48, 16),
    (lambda p: optim.Prodigy(p, betas=(0.0, 0.99)), 40, 12),
    (lambda p: optim.SteepestDescent(p, 0.1, 0.9, norm="LInf()"), 20, 4),
    (lambda p: optim.SteepestDescent(p, 0.1, norm="LInf()", step="steepest"), 16, 0),
]


@pytest.mark.parametrize("case", BYTES, ids=lambda case: f"{case[1]}-{case[2]}")
def test_bytes_and_state_of_the_elementwise_rules(case):
    maker, moved, state = case
    found = of(maker, (64, 32), (128,))
    numbers = 64 * 32 + 128
    assert found.parameters == numbers
    assert found.bytes == moved * numbers
    assert found.state_per_parameter == state
    assert found.flops == 0
    assert found.bound_by == "memory"
    assert found.seconds == pytest.approx(moved * numbers / 1e9)


def test_bfloat16_parameters_have_gradients_of_two_bytes_and_wide_state():
    found = of(optim.AdamW, (50,), dtype=torch.bfloat16)
    assert found.bytes == 50 * (2 + 2 + 2 + 4 * 4)
    assert found.state_per_parameter == 8


def test_complex_and_double_parameters():
    assert of(optim.Lion, (50,), dtype=torch.complex64).bytes == 50 * 40
    assert of(optim.Lion, (50,), dtype=torch.float64).bytes == 50 * 40


def test_a_sliced_prodigy_reads_every_eleventh_number_for_its_estimate():
    found = of(lambda p: optim.Prodigy(p, slice_p=11), (1100,))
    assert found.state_per_parameter == pytest.approx(4 * (2 + 2 / 11))
    assert found.bytes == pytest.approx(1100 * (28 + 20 / 11))


@pytest.mark.parametrize(
    ("symmetric", "loop", "gram"),
    [
        (False, 5 * (4 * M**2 * N + 2 * M**3), 4 * M**2 * N + 34 * M**3),
        (True, 5 * (3 * M**2 * N + M**3), 3 * M**2 * N + 17 * M**3),
    ],
)
def test_five_quintics_one_by_one_and_in_the_gram_form(symmetric, loop, gram):
    for shape in ((M, N), (N, M)):
        assert flops.composed(*shape, 5, symmetric=symmetric) == loop
        assert flops.composed(*shape, 5, groups=1, symmetric=symmetric) == gram

    def half(p):
        return optim.Muon(p, ns_dtype="bfloat16")

    assert of(half, (M, N), symmetric=symmetric).flops == loop
    assert of(torch.optim.Muon, (M, N), symmetric=symmetric).flops == loop
    assert of(optim.Muon, (M, N), symmetric=symmetric).flops == gram


def test_muon_counts_adamw_for_vectors_and_matrices_as_they_are_seen():
    found = of(optim.Muon, (M, N), (7,))
    assert found.bytes == 20 * M * N + 28 * 7
    one = 3 * 8**2 * 12 + 17 * 8**3
    flat = 3 * 8**2 * 36 + 17 * 8**3
    assert of(optim.Muon, (8, 4, 3, 3)).flops == flat
    positions = of(lambda p: optim.Muon(p, kernel="positions"), (8, 12, 3, 3))
    assert positions.flops == 9 * one
    split = {"params": [torch.zeros(24, 12, requires_grad=True)]}
    split["norm"] = Split(RMSToRMS(), 3)
    assert limit(optim.Muon([split]), rates=RATES).flops == 3 * one


def test_products_count_with_the_rate_of_their_dtype():
    fast = Rates(((2**50, 1e12),), {"float32": 1e12, "bfloat16": 4e12})
    model = nn.Linear(512, 512, bias=False)
    narrow = limit(lambda p: optim.Muon(p, ns_dtype="bfloat16"), model, rates=fast)
    assert narrow.bound_by == "products"
    assert narrow.seconds == pytest.approx(5 * 4 * 512**3 / 4e12)
    wide = limit(optim.Muon, model, rates=fast)
    assert wide.seconds == pytest.approx(20 * 512**3 / 1e12)


@pytest.mark.parametrize("refresh", [1, 10])
def test_shampoo_is_amortised_over_the_refresh(refresh):
    found = of(lambda p: optim.Shampoo(p, refresh=refresh), (M, N), symmetric=False)
    linear, cubic = M**2 * N + M * N**2, M**3 + N**3
    assert found.flops == pytest.approx(4 * linear + 11 * cubic / refresh)
    kept = M * N + (M**2 + N**2) * (1 if refresh == 1 else 2)
    assert found.state_bytes == 4 * kept


def test_shampoo_in_blocks():
    whole = of(lambda p: optim.Shampoo(p, refresh=5), (64, 32))
    blocks = of(lambda p: optim.Shampoo(p, refresh=5, max_dim=64), (128, 32))
    assert blocks.flops == pytest.approx(2 * whole.flops)
    assert blocks.state_bytes == pytest.approx(2 * whole.state_bytes)


def test_soap_turns_its_average_only_with_the_basis():
    linear, cubic = M**2 * N + M * N**2, M**3 + N**3
    every = of(lambda p: optim.SOAP(p, refresh=1), (M, N), symmetric=False)
    assert every.flops == pytest.approx(8 * linear + 10 / 3 * cubic)
    tenth = of(lambda p: optim.SOAP(p, refresh=10), (M, N), symmetric=False)
    assert tenth.flops == pytest.approx(6.4 * linear + cubic / 3)
    assert tenth.state_bytes == 4 * (2 * M * N + 2 * (M**2 + N**2))


@pytest.mark.parametrize("refresh", [1, 10])
def test_sirf_shampoo_dense(refresh):
    make = with_batch(optim.SIRFShampoo, refresh=refresh)
    found = of(make, (M, N), symmetric=False)
    linear, cubic = M**2 * N + M * N**2, M**3 + N**3
    update = (4 * linear + 4 * cubic) / refresh
    if refresh == 1:  # per axis: two products with K, or KKᵀ and one with it
        sides = [min(4 * M * N * d, 2 * M * N * d + 2 * d**3) for d in (M, N)]
        assert found.flops == pytest.approx(update + sum(sides))
        assert found.flops <= 4 * linear + update
    else:  # half of the first term, as the products are kept
        assert found.flops == pytest.approx(2 * linear + update + 2 * cubic / refresh)
    kept = M * N + (M**2 + N**2) * (2 if refresh == 1 else 3)
    assert found.state_bytes == 4 * kept


def test_diagonal_factors_multiply_no_matrices():
    make = with_batch(optim.SIRFShampoo, structures="diagonal")
    assert of(make, (M, N)).flops == 0


def test_joined_pairs_count_once():
    layer = nn.Linear(N, M)
    optimizer = optim.SIRFShampoo(optim.joined(layer), batch_size=4)
    found = limit(optimizer, rates=RATES)
    alone = of(with_batch(optim.SIRFShampoo), (M, N + 1))
    assert found.flops == alone.flops
    assert found.state_bytes == alone.state_bytes
    assert found.bytes == alone.bytes


def test_kradagrad():
    found = of(optim.KrADagrad, (M, N), symmetric=False)
    linear, cubic = M**2 * N + M * N**2, M**3 + N**3
    # GGᵀL, LGGᵀL and the root with its decomposition of 9d³
    assert found.flops == pytest.approx(4 * linear + (2 + 2 + 11) * cubic)
    damped = of(lambda p: optim.KrADagrad(p, eps=0.1), (M, N), symmetric=False)
    assert damped.flops - found.flops == pytest.approx(2 * cubic)  # L²


def test_norms_without_polar_factors_multiply_nothing():
    model = nn.Sequential(nn.Embedding(30, 16), nn.Linear(16, 24), nn.Linear(24, 5))
    found = limit(optim.Scion(metrize(model), lr=0.1), model, rates=RATES)
    one = flops.polar_factor(24, 16, "svd")
    assert found.flops == one  # the embedding and the head are normalised by rows


def test_an_instance_and_its_class_agree_and_nothing_changes():
    model = nn.Linear(20, 30)
    optimizer = optim.Muon(model.parameters())
    before = copy.deepcopy(optimizer.state_dict())
    assert limit(optimizer, rates=RATES) == limit(optim.Muon, model, rates=RATES)
    assert limit(optimizer, [model.bias], rates=RATES).parameters == 30
    assert optimizer.state_dict() == before
    assert not optimizer.state


def test_a_class_may_state_its_own_cost():
    class Mine(torch.optim.SGD):
        def cost(self, subject):
            return Work(state=3 * subject.numbers, flops=7.0)

    found = of(Mine, (10,))
    assert (found.bytes, found.flops) == (10 * 36, 7.0)


def test_errors_say_what_would_be_right():
    model = nn.Linear(2, 2)
    with pytest.raises(TypeError, match="a class has no parameters"):
        limit(optim.AdamW, rates=RATES)
    with pytest.raises(ValueError, match="2 of the parameters are not"):
        limit(optim.AdamW([torch.zeros(2)]), model, rates=RATES)
    with pytest.raises(TypeError, match="the cost of LBFGS is not known"):
        limit(torch.optim.LBFGS(model.parameters()), rates=RATES)


def test_empty_and_frozen_parameters_cost_nothing():
    assert of(optim.AdamW, (0, 3)).seconds == 0
    assert limit(optim.AdamW, [], rates=RATES).parameters == 0
    assert limit(optim.AdamW, [torch.zeros(3)], rates=RATES).parameters == 0


def test_small_sets_count_with_the_rate_of_the_cache():
    assert of(optim.SGD, (100,)).bandwidth == 8e9  # 800 bytes of w and g
    assert of(optim.SGD, (200,)).bandwidth == 1e9
    assert RATES.bandwidth(2.0**60) == 1e9
    assert RATES.rate("float64") == 1e12


def test_between_two_sizes_of_the_ladder_the_rate_falls_steadily():
    ladder = ((2**20, 160e9), (2**24, 160e9), (2**26, 40e9))
    rates = Rates(ladder, {"float32": 1.0})
    assert [rates.bandwidth(size) for size, _ in ladder] == [160e9, 160e9, 40e9]
    assert rates.bandwidth(2**22) == pytest.approx(160e9)
    assert rates.bandwidth(2**25) == pytest.approx(80e9)
    sizes = torch.linspace(2**19, 2**27, 50).tolist()
    found = [rates.bandwidth(size) for size in sizes]
    assert found == sorted(found, reverse=True)
    assert Rates(ladder[:1], {"float32": 1.0}).bandwidth(7) == 160e9


def test_the_ladder_counts_bytes_as_the_limit_does():
    """A fused step on a set of the ladder's size is then a sample of the ladder."""
    from anthology.cost.rates import _ways

    pool = torch.ones(1201)
    moved = {}
    for way, (count, run) in enumerate(_ways(pool)):
        with torch.no_grad():
            for _ in range(3):
                run()
        moved[way] = count
        assert (pool - 1).abs().max() < 1e-6  # and may be measured again
    scaled, averaged, product, sgd, adamw = moved.values()
    assert (scaled, averaged, product) == (8 * 1201, 12 * 600, 16 * 400)
    momentum = of(lambda p: torch.optim.SGD(p, momentum=0.9), (400,))
    assert sgd == momentum.bytes
    assert adamw == of(torch.optim.AdamW, (300,)).bytes


def test_the_best_sample_counts(monkeypatch):
    from anthology.cost import rates

    told = iter([0.0, 8.0, 8.0, 9.0, 9.0, 14.0])
    monkeypatch.setattr(rates.time, "process_time", lambda: next(told))
    monkeypatch.setattr(rates.time, "perf_counter", lambda: next(told))
    monkeypatch.setattr(rates, "SAMPLES", 3)
    assert rates._fastest(lambda: None, rates.LEAST, "cpu") == 1.0


def test_rates_are_positive_fall_with_size_and_are_measured_once(monkeypatch):
    from anthology.cost import rates

    monkeypatch.setattr(rates, "CPU_SETS", (2**12, 2**14))
    monkeypatch.setattr(rates, "CPU_SIDES", ((1, 16, 16, 16), (2, 8, 16, 8)))
    monkeypatch.setattr(rates, "LEAST", 2**14)
    rates._measured.cache_clear()
    threads = torch.get_num_threads()
    found = device_rates("cpu", threads=1)
    assert [size for size, _ in found.ladder] == [2**12, 2**14]
    assert found.ladder[0][1] >= found.ladder[1][1] > 0
    assert all(math.isfinite(r) and r > 0 for r in found.matmul.values())
    assert device_rates("cpu", threads=1) is found
    assert torch.get_num_threads() == threads
    rates._measured.cache_clear()
