"""Closures, options, groups, hooks, names, schedules and kinds of decay."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from .subject import Subject, Trial, parting, refusal, require, weight

STRENGTH = 1e4  # of decay: also a rate of 1e-6 is seen then
RATES = (1.0, 0.5, 0.25)  # shares of the largest
Decayed = tuple[Tensor, Tensor, list[Tensor], float]


class Interface(Subject):
    """Closures, options, groups, hooks, names and schedules."""

    def closure(self) -> None:
        """Code written for any torch optimizer fails, or trains on a stale gradient."""
        p = weight()
        trial = self.fresh(p)
        calls: list[bool] = []
        losses: list[float] = []

        def evaluate() -> Tensor:
            calls.append(torch.is_grad_enabled())
            trial.optimizer.zero_grad()
            loss = (p * p).sum()
            loss.backward()
            losses.append(loss.item())
            return loss

        step: Any = trial.optimizer.step
        for _ in range(1 + trial.warm_up):
            calls.clear()
            before = trial.now()
            with torch.no_grad():
                loss = step(evaluate)
            times = len(calls)
            require(times == 1, f"the closure was called {times} times, not once")
            require(calls[0], "the closure did not run under enable_grad")
            right = loss is not None and float(loss) == losses[-1]
            require(right, f"step() returned {loss}, not the closure's loss")
        require(not trial.stands_at(before), "the closure's gradient was not used")

    def descends_on_a_quadratic(self) -> None:
        """It does not train."""
        before, after = self.on(weight()).descend(200)
        said = f"200 steps took the loss from {before} to {after}"
        require(after < 0.999 * before, said)

    def maximize(self) -> None:
        """Rewards must be negated by hand, and the option descends where it exists."""
        up, down = self.fresh(weight(), maximize=True), self.fresh(weight())
        off = parting(up, down, 3 + down.warm_up, sign=-1)
        require(off < 1e-6, "maximize with g differs from minimize with -g")

    def tensor_learning_rate(self) -> None:
        """Compiled training recompiles at every change of the rate, or a crash."""
        plain = self.fresh(weight())
        rate = torch.tensor(float(plain.optimizer.defaults["lr"]))
        off = parting(self.fresh(weight(), lr=rate), plain, 3 + plain.warm_up)
        require(off < 1e-6, "a Tensor lr gives another step than the same float")

    def negative_learning_rate_refused(self) -> None:
        """A sign error in a sweep trains uphill without a word."""
        self._refuses(lr=-1.0)

    def nan_learning_rate_refused(self) -> None:
        """A rate computed as 0/0 destroys the model at the first step."""
        self._refuses(lr=math.nan)

    def bad_group_refused(self) -> None:
        """The same sign error passes unnoticed when it stands in a parameter group."""
        optimizer = self.on(weight()).optimizer
        group = {"params": [weight()], "lr": -1.0}
        error = refusal(lambda: optimizer.add_param_group(group), ValueError)
        require(error is not None, "a group with lr=-1.0 was accepted")
        require(len(optimizer.param_groups) == 1, "the refused group was added")

    def hooks(self) -> None:
        """Profilers, gradient clipping and logging by step hooks never run."""
        trial = self.on(weight())
        seen: list[tuple[str, bool]] = []

        def note(when: str) -> Any:
            return lambda *_: seen.append((when, not trial.moved()))

        trial.optimizer.register_step_pre_hook(note("before"))
        trial.optimizer.register_step_post_hook(note("after"))
        trial.step()
        right = seen == [("before", True), ("after", False)]
        require(right, f"hooks (when, parameter unmoved) were called as {seen}")

    def named_parameters(self) -> None:
        """Checkpoints and logs cannot tell which parameter is which."""
        p, q = weight(), weight(3, 5)
        trial = self.on(p, q, given=[("first", p), ("second", q)])
        names = trial.optimizer.param_groups[0].get("param_names")
        require(names == ["first", "second"], f"param_names is {names}")
        trial.step()
        require(trial.moved(), "a named parameter did not move")

    def foreign_group_keys(self) -> None:
        """A wrapper or a scheduler that counts in the groups breaks or changes steps."""
        p = weight()
        plain = self.fresh(weight())
        counted = self.fresh(p, given=[{"params": [p], "step": 0}])
        group = counted.optimizer.param_groups[0]
        require(group.get("step") == 0, "a group's own step=0 was not kept")
        group |= {"t": 0, "k": 0}
        for _ in range(3 + plain.warm_up):
            apart = parting(counted, plain, 1)
            for name in ("step", "t", "k"):
                group[name] += 1
            counted.optimizer.load_state_dict(counted.optimizer.state_dict())
            group = counted.optimizer.param_groups[0]
        require(apart == 0, "numbers under step, t and k in a group change steps")

    def group_with_zero_rate(self) -> None:
        """A group that was meant to be frozen moves, or a second group crashes."""
        trial = self._joined(lr=0.0)
        trial.train(3 + trial.warm_up)
        require(not trial.moved(1), "a group with lr=0 moved")
        require(trial.finite(), "the other group became NaN")

    def added_group(self) -> None:
        """Layers that are added during fine-tuning do not train."""
        trial = self._joined()
        trial.warm()
        trial.step()
        require(trial.finite(), "a parameter is not finite")
        require(trial.moved(1), "an added group did not move")

    def empty_group(self) -> None:
        """Programs that sort parameters into groups, and leave one empty, crash."""
        p, q = weight(), weight()
        trial = self.on(p, given=[{"params": [p]}, {"params": []}])
        trial.step()
        require(trial.moved(), "beside an empty group nothing moved")
        require(bool(repr(trial.optimizer)), "it prints as nothing")
        other = self.fresh(q, given=[{"params": [q]}, {"params": []}])
        other.optimizer.load_state_dict(copy.deepcopy(trial.optimizer.state_dict()))
        sizes = [len(group["params"]) for group in other.optimizer.param_groups]
        require(sizes == [1, 0], f"groups of 1 and 0 tensors came back as {sizes}")
        other.put(trial.params)
        apart = parting(trial, other, 1)
        require(apart == 0, "beside an empty group a resumed run is another run")

    def scheduler(self) -> None:
        """Learning rate schedules have no effect."""
        trial = self.on(weight())
        schedule = LambdaLR(trial.optimizer, lambda k: float(k < 2))
        for _ in range(2):
            trial.step()
            schedule.step()
        require(trial.moved(), "it did not move while the rate was up")
        before = trial.now()
        trial.step()
        still = trial.stands_at(before)
        require(still, "it moved although the schedule had set lr to 0")

    def warm_up_from_zero(self) -> None:
        """A warm-up whose first rate is zero gives 0/0 or a step that should not be."""
        trial = self.on(weight())
        schedule = LambdaLR(trial.optimizer, lambda k: min(k / 3, 1.0))
        trial.step()
        require(not trial.moved(), "it moved at lr=0")
        for _ in range(4):
            schedule.step()
            trial.step()
        require(trial.finite(), "a warm-up from zero gave NaN")
        require(trial.moved(), "it did not move after the warm-up")

    def _refuses(self, **options: Any) -> None:
        error = refusal(lambda: self.fresh(weight(), **options), ValueError)
        require(error is not None, f"{options} was accepted")

    def _joined(self, **options: Any) -> Trial:
        """A trial whose second parameter joins after a step, in a group of its own."""
        trial, new = self.on(weight()), weight(3, 5)
        trial.step()
        trial.optimizer.add_param_group({"params": [new], **options})
        return Trial(trial.optimizer, [*trial.params, new])


class KindsOfDecay(Subject):
    """Decay that looks at the step or at the schedule.

    An optimizer without an argument ``decay`` promises nothing and passes.
    """

    def cautious_decay(self) -> None:
        """Decay that was to be cautious works against the step, or not at all."""
        for old, new, taken, _ in self._decayed("cautious"):
            agrees = (old - new) * old >= 0
            size = _share(taken[0], old, agrees)
            off = (taken[0] - size * old * agrees).abs().max()
            require(size > 0, "no weight decayed that the step made smaller")
            require(off <= 1e-3 * size, "it is not a share of what the step shrinks")

    def corrected_decay(self) -> None:
        """The size of normalised weights follows the schedule that it was to forget."""
        for old, new, taken, share in self._decayed("cautious", "corrected"):
            plain = _share(taken[0], old, (old - new) * old >= 0)
            size = _share(taken[1], old, old != 0)
            off = (taken[1] - size * old).abs().max()
            require(off <= 1e-3 * size, "it is not one share of all weights")
            found = f"{size / plain:.3g} times the decay without correction"
            follows = abs(size / plain - share) < 1e-3
            require(follows, f"at {share} of the largest rate it is {found}")

    def _decayed(self, *kinds: str) -> Iterator[Decayed]:
        """Steps with and without decay from one place: old, new, what each kind took."""
        if not self.offers("decay"):
            return
        trials = [self.fresh(weight(), weight_decay=0.0)]
        trials += [self.fresh(weight(), weight_decay=STRENGTH, decay=k) for k in kinds]
        trials[0].put([torch.randn(4, 3)])
        for trial in trials:
            trial.warm()
        for share in RATES:
            (old,), g = trials[0].now(), torch.randn(4, 3)
            for trial in trials:
                trial.put([old])
                for group in trial.optimizer.param_groups:
                    group["lr"] = share * trial.optimizer.defaults["lr"]
                trial.step(g)
            new, *others = (trial.now()[0] for trial in trials)
            yield old, new, [new - other for other in others], share


def _share(taken: Tensor, old: Tensor, among: Tensor) -> float:
    """What share of the largest of some weights was taken."""
    at = (old.abs() * among).argmax()
    return float(taken.flatten()[at] / old.flatten()[at])
