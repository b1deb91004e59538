"""Ways of breaking the contract that need a class of their own."""

import copy
import math
from typing import Any

import torch

from anthology.optim import BaseOptimizer
from tests.contract.faults import FAULTS, Sound, fault

__all__ = ["FAULTS", "Sound"]


@fault("huge gradient")
class FrozenByASpike(Sound):
    def step(self, closure: Any = None) -> Any:
        spikes = [g.abs().max() for _, g in self.pairs if g.numel() and not g.is_sparse]
        if any(1e20 < spike < math.inf for spike in spikes):
            self.param_groups[0]["frozen"] = True
        return (
            None
            if "frozen" in self.param_groups[0]
            else BaseOptimizer.step(self, closure)
        )


@fault("late gradient")
class Forgetful(Sound):
    def step(self, closure: Any = None) -> Any:
        group = self.param_groups[0]
        if self.pairs and "seen" not in group:
            group["seen"] = [
                i for i, p in enumerate(group["params"]) if p.grad is not None
            ]
        late = [
            p for i, p in enumerate(group["params"]) if i not in group.get("seen", [i])
        ]
        kept = [p.grad for p in late]
        for p in late:
            p.grad = None
        loss = BaseOptimizer.step(self, closure)
        for p, g in zip(late, kept, strict=True):
            p.grad = g
        return loss


@fault("sparse gradient")
class Mumbling(Sound):
    def step(self, closure: Any = None) -> Any:
        if any(g.is_sparse for _, g in self.pairs):
            raise RuntimeError("not implemented")
        return BaseOptimizer.step(self, closure)


@fault("closure")
class WithoutGrad(Sound):
    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = closure() if closure else None
        BaseOptimizer.step(self)
        return loss


@fault("negative learning rate refused")
class Absolute(Sound):
    def __init__(self, params: Any, lr: Any = 0.05, **options: Any) -> None:
        super().__init__(params, abs(lr), **options)


@fault("nan learning rate refused")
class Forgiving(Sound):
    def __init__(self, params: Any, lr: Any = 0.05, **options: Any) -> None:
        super().__init__(params, 0.0 if math.isnan(lr) else lr, **options)


@fault("bad group refused")
class Trusting(Sound):
    def check(self, group: Any) -> None:
        if not hasattr(self, "param_groups") or not self.param_groups:
            super().check(group)


@fault("first move")
class Impatient(Sound):
    """It declares a warm-up and moves at once."""

    warmup_steps = 2

    def __init__(self, params: Any, lr: Any = 0.05, **options: Any) -> None:
        super().__init__(params, lr, **{"momentum": 0.0, **options})


@fault("hooks")
class Deaf(Sound):
    def register_step_post_hook(self, hook: Any) -> Any:
        return super().register_step_post_hook(lambda *_: None)


@fault("named parameters")
class Nameless(Sound):
    def __init__(self, params: Any, lr: Any = 0.05, **options: Any) -> None:
        params = [p[1] if isinstance(p, tuple) else p for p in params]
        super().__init__(params, lr, **options)


@fault("group with zero rate")
class AlwaysMoving(Sound):
    def add_param_group(self, group: Any) -> None:
        super().add_param_group({**group, "lr": group.get("lr") or self.defaults["lr"]})

    def check(self, group: Any) -> None:
        super().check({**group, "lr": -1.0} if group["lr"] == -1.0 else group)


@fault("added group")
class FirstGroupOnly(Sound):
    def add_param_group(self, group: Any) -> None:
        lr = 0.0 if getattr(self, "param_groups", None) else self.defaults["lr"]
        super().add_param_group({"lr": lr, **group})


@fault("empty group")
class FirstOfEach(Sound):
    def step(self, closure: Any = None) -> Any:
        devices = {group["params"][0].device for group in self.param_groups}
        return BaseOptimizer.step(self, closure) if devices else None


@fault("scheduler")
class NeverResting(Sound):
    def step(self, closure: Any = None) -> Any:
        group = self.param_groups[0]
        if group["lr"] == 0 and any(self.state[p] for p, _ in self.pairs):
            group["lr"] = group.get("last", 0.0)
        group["last"] = group["lr"]
        return BaseOptimizer.step(self, closure)


@fault("checkpoint")
class LosesFloat32(Sound):
    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        for p in self.param_groups[0]["params"]:
            state = self.state[p]
            if p.dtype == torch.float32 and p.ndim == 2 and len(self.state) == 2:
                state["momentum_buffer"].zero_()


@fault("checkpoint of bfloat16")
class CastsState(Sound):
    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        for p in self.param_groups[0]["params"]:
            if p.dtype == torch.bfloat16:
                self.state[p] = {k: v.to(p.dtype) for k, v in self.state[p].items()}


@fault("loaded state is a copy")
class SharesState(Sound):
    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        for p, saved in zip(
            self.param_groups[0]["params"], state_dict["state"].values(), strict=False
        ):
            self.state[p].update(saved)


@fault("deep copy")
class SharesParameters(Sound):
    def __deepcopy__(self, memo: Any) -> Sound:
        return type(self)(self.param_groups[0]["params"])


@fault("foreign group keys")
class OwnCounter(Sound):
    """Counts in its groups, where a wrapper counts as well."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["k"] = group.get("k", 0) + 1
            if group["k"] % 2 == 0:
                for p in group["params"]:
                    m = self.state[p].get("momentum_buffer")
                    if m is not None:
                        m.zero_()
        return BaseOptimizer.step(self, closure)


@fault("foreign checkpoint")
class TakesAnything(Sound):
    def load_state_dict(self, state_dict: Any) -> None:
        if any("prev" in state for state in state_dict["state"].values()):
            torch.optim.Optimizer.load_state_dict(self, copy.deepcopy(state_dict))
        else:
            super().load_state_dict(state_dict)


@fault("torn checkpoint")
class MakesUp(Sound):
    def load_state_dict(self, state_dict: Any) -> None:
        try:
            super().load_state_dict(state_dict)
        except ValueError as error:
            if "missing" not in str(error):
                raise


@fault("bad group in a checkpoint")
class HalfLoaded(Sound):
    """It refuses the rate, but has changed by then."""

    def load_state_dict(self, state_dict: Any) -> None:
        if any(math.isnan(group["lr"]) for group in state_dict["param_groups"]):
            self.param_groups[0]["momentum"] = 0.25
        super().load_state_dict(state_dict)


@fault("removed parameter")
class Clinging(Sound):
    def step(self, closure: Any = None) -> Any:
        self.__dict__.setdefault("_held", set()).update(p for p, _ in self.pairs)
        return BaseOptimizer.step(self, closure)


class Elsewhere(Sound):
    """One kind of decay is another: at the whole rate, wherever the step goes."""

    kind = ""

    def step(self, closure: Any = None) -> Any:
        group = self.param_groups[0]
        if group["decay"] != self.kind:
            return BaseOptimizer.step(self, closure)
        group.update(decay="corrected", max_lr=group["lr"])
        loss = BaseOptimizer.step(self, closure)
        group.update(decay=self.kind, max_lr=None)
        return loss


@fault("cautious decay")
class Careless(Elsewhere):
    kind = "cautious"


@fault("corrected decay")
class Uncorrected(Elsewhere):
    kind = "corrected"
