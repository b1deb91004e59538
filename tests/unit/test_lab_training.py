"""The training loop: deterministic, honest about divergence, quiet."""

import math

import pytest
import torch

from anthology import lab


@pytest.fixture(scope="module")
def images():
    return lab.digits()


def train(images, make, **options):
    net = lab.mlp([64, 16, 10], seed=0)
    optimizer = make(net.parameters())
    run = lab.fit(net, optimizer, images.batches(32, seed=0), **options)
    return net, optimizer, run


def sgd(lr):
    return lambda params: torch.optim.SGD(params, lr=lr)


@pytest.mark.parametrize(
    "make",
    [
        sgd(0.5),
        lambda p: torch.optim.AdamW(p, lr=1e-2),
        lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-2), foreach=False),
        lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.5),
    ],
    ids=["sgd", "adamw", "tensor-lr", "rmsprop"],
)
def test_it_learns_with_any_optimizer_and_repeats_itself(images, make):
    net, _, run = train(images, make, steps=120, schedule="linear")
    assert len(run.losses) == 120 and not run.diverged and run.metric is None
    assert lab.accuracy(net, *images.test) > 0.8
    assert lab.mean_loss(net, *images.test) < 0.8
    assert train(images, make, steps=120, schedule="linear")[2].losses == run.losses


def test_losses_are_those_before_each_step(images):
    net = lab.mlp([64, 16, 10], seed=0)
    x, y = next(images.batches(32, seed=0))
    first = lab.cross_entropy(net(x), y).item()
    assert train(images, sgd(0.1), steps=3)[2].losses[0] == first


def rates(images, make, **options):
    net = lab.mlp([64, 10])
    optimizer, seen = make(net.parameters()), []
    optimizer.register_step_pre_hook(
        lambda opt, *_: seen.append(float(opt.param_groups[0]["lr"]))
    )
    lab.fit(net, optimizer, images.batches(8), **options)
    return seen, float(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("lr", [0.4, torch.tensor(0.4)], ids=["float", "tensor"])
def test_schedules_and_the_rate_put_back(images, lr):
    def make(params):
        return torch.optim.Adam(
            params, lr=lr.clone() if isinstance(lr, torch.Tensor) else lr, foreach=False
        )

    linear = rates(images, make, steps=4, schedule="linear")
    assert linear[0] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    warm = rates(images, make, steps=4, warmup=3)
    assert warm[0] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert linear[1] == warm[1] == pytest.approx(0.4)


def test_divergence_ends_the_run_and_is_recorded(images):
    calls = []
    _, optimizer, run = train(
        images, sgd(1e30), steps=500, evaluate=lambda: calls.append(1) or 0.0
    )
    assert run.diverged and math.isnan(run.metric) and calls == []
    assert len(run.losses) < 50 and not math.isfinite(run.losses[-1])
    assert optimizer.param_groups[0]["lr"] == 1e30


def test_evaluations_each_few_steps_and_at_the_end(images):
    count = iter(range(10))
    run = train(images, sgd(0.1), steps=10, every=4, evaluate=lambda: next(count))[2]
    assert run.evaluations == [(4, 0.0), (8, 1.0), (10, 2.0)] and run.metric == 2.0
    count = iter(range(10))
    run = train(images, sgd(0.1), steps=8, every=4, evaluate=lambda: next(count))[2]
    assert run.evaluations == [(4, 0.0), (8, 1.0)]


def test_zero_steps(images):
    run = train(images, sgd(0.1), steps=0, evaluate=lambda: 3.0)[2]
    assert run.losses == [] and run.evaluations == [(0, 3.0)]


def test_nothing_is_printed(images, capfd):
    train(images, sgd(0.1), steps=5, name="quiet")
    assert capfd.readouterr() == ("", "")


def test_wrong_arguments_change_nothing(images):
    net = lab.mlp([64, 10])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="'constant', 'linear'"):
        lab.fit(net, optimizer, images.batches(8), 3, schedule="cosine")
    batch = next(images.batches(8))
    with pytest.raises(ValueError, match="ended after 1 of 3"):
        lab.fit(net, optimizer, [batch], 3, schedule="linear")
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_evaluation_mode_is_left_as_it_was(images):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.9))
    x = images.x[:4].expand(4, 1, 8, 8)
    losses = {lab.mean_loss(net, x, images.y[:4]) for _ in range(3)}
    assert len(losses) == 1 and net.training
    net.eval()
    lab.accuracy(net, x, images.y[:4])
    assert not net.training


def test_sequences_are_scored_position_by_position():
    logits, targets = torch.randn(3, 5, 7), torch.randint(7, (3, 5))
    expected = -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
    assert torch.allclose(lab.cross_entropy(logits, targets), expected)


def test_sweep_takes_the_best_median():
    table = {0.1: [3.0, 1.0, 2.0], 0.2: [0.0, 9.0, 9.0], 0.4: [math.nan] * 3}
    best, results = lab.sweep(lambda lr, s: table[lr][s], [0.4, 0.2, 0.1], range(3))
    assert best == 0.1 and results[0.2] == table[0.2]
    assert lab.sweep(lambda lr, s: lr, [1.0, 2.0], [0], better="higher")[0] == 2.0
    assert lab.sweep(lambda lr, s: 1.0, [2.0, 1.0], [0])[0] == 1.0
    with pytest.raises(ValueError, match="nothing to try"):
        lab.sweep(lambda lr, s: lr, [], [0])
    with pytest.raises(ValueError, match="'lower' or 'higher'"):
        lab.sweep(lambda lr, s: lr, [1.0], [0], better="best")


def test_a_nan_does_not_win_when_higher_is_better():
    table = {0.1: [0.5], 0.2: [math.nan]}
    assert (
        lab.sweep(lambda lr, s: table[lr][s], [0.1, 0.2], [0], better="higher")[0]
        == 0.1
    )
