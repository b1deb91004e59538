"""Cost of the equation of motion on a network, in gradients, on this machine.

    python -m benchmarks.motion_cost [--width 282] [--samples 256] [--limit 20]

One velocity of the truncated motion of gradient descent at each order to 8: by
forward differences (`equation_of_motion`, and `generator` on the map of
`torch.optim.SGD`), and by the series of nested forward derivatives, which stops
before the order that would take longer than the limit in seconds. Every method
takes its turn with one plain gradient, round after round, so that a disturbance of
the machine meets both; the medians over the rounds are divided. On a CPU it is time
of the processor, one thread. Nothing is stored: figures belong to a machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import grad

from anthology.motion import equation_of_motion, generator, ravel_model, step_map

LR = 0.05
ORDERS = range(1, 9)

Evaluation = Callable[[], Tensor]


def network(width: int, samples: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A perceptron 64-width-width-10, smooth, on random data in float64."""
    torch.manual_seed(0)
    layers = (nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
    model = nn.Sequential(*layers, nn.Linear(width, 10)).double()
    x = torch.randn(samples, 64, dtype=torch.float64)
    return model, x, torch.randint(10, (samples,))


def evaluations(
    model: nn.Module, x: Tensor, y: Tensor
) -> tuple[Evaluation, dict[str, Callable[[int], Evaluation]]]:
    """One gradient, and one velocity of each order by each way."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    f, w = ravel_model(model, lambda net: nn.functional.cross_entropy(net(x), y))
    gradient = grad(f)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    step = step_map(optimizer, closure)

    def motion(method: str) -> Callable[[int], Evaluation]:
        return lambda order: lambda: equation_of_motion(gradient, order, LR, method)(w)

    return lambda: gradient(w), {
        "differences": motion("differences"),
        "differences of SGD": lambda order: (
            lambda: generator(step, step.start, order, LR)
        ),
        "series": motion("series"),
    }


def seconds(run: Evaluation) -> float:
    """Processor time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def ratio(unit: Evaluation, run: Evaluation, rounds: int) -> tuple[float, float]:
    """Median time in gradients, and in seconds, measured in turn."""
    ours, units = [], []
    for _ in range(rounds):
        units.append(seconds(unit))
        ours.append(seconds(run))
    median = statistics.median(ours)
    return median / statistics.median(units), median


def main() -> None:
    """Print one row for each way: gradients per velocity, by order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=282)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--limit", type=float, default=20.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, x, y = network(arguments.width, arguments.samples)
    size = sum(p.numel() for p in model.parameters())
    unit, ways = evaluations(model, x, y)
    unit()
    print(f"{size} parameters, one gradient {1e3 * seconds(unit):.1f} ms")
    for name, of_order in ways.items():
        print(f"  {name:20}", end="", flush=True)
        for order in ORDERS:
            run = of_order(order)
            first = seconds(run)  # warms up, too
            rounds = max(3, min(arguments.rounds, int(arguments.limit / first)))
            found, spent = ratio(unit, run, rounds)
            print(f" {found:7.1f}", end="", flush=True)
            if name == "series" and 5 * spent > arguments.limit:
                print(f"  (order {order + 1}: over {arguments.limit:g} s)", end="")
                break
        print()


if __name__ == "__main__":
    main()
