"""The contract that every optimizer of the package keeps, written once.

A new optimizer states the limits of its hyper-parameters (`check`) and holds a `Rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import checkpoint, dispatch
from .batch import Batch
from .card import Card, SilentPenalty
from .decay import check_decay, note_peaks
from .dispatch import CPU_BATCH, DEVICE_BATCH, FUSED_BATCH, gather, must_hold_numbers
from .limits import FLAGS, at_least_zero
from .names import named, with_names
from .rounding import check_rounding
from .rule import Rule, coupled
from .sharding.layer import shards_of
from .state import State, fresh_state
from .watch import Watch

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


def hyperparameters(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters among the arguments of a constructor."""
    others = ("self", "params", "__class__")
    return {name: value for name, value in arguments.items() if name not in others}


class BaseOptimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` that needs only an update rule, its `rule`.

    Where a gradient is not finite, neither parameter nor state changes, weight decay
    included: a rule that works entry by entry leaves such entries alone, any other the
    whole tensor, and `skipped` counts the tensor once a step. Where that happens at every
    step, one warning names the tensors after 25 to 50 steps; for it the host does not
    wait for a CUDA device.

    The flags of every class, each of which a group may override:

    - ``foreach``: work on lists of tensors; None chooses lists where all are plain
      tensors, False is the loop, which is the definition.
    - ``maximize``: ascend instead. Default False.
    - ``capturable``: keep step counters in tensors on every device (on CUDA they
      always are). Default False.
    - ``differentiable``: let autograd follow the step. Default False.
    - ``fused``, for rules that work entry by entry: one pass over the memory. True takes
      PyTorch's fused kernel where there is one (Adam, AdamW) and compiles the step where
      there is none, "compile" compiles it once, "triton" takes the kernels of this
      package on CUDA. Default None: do not. Not together with ``foreach`` or
      ``differentiable``.
    - ``rounding``, in a group: how bfloat16 parameters are rounded after a step,
      ``"nearest"``, ``"stochastic"`` (at random, unbiased) or ``"compensated"`` (what
      was rounded off is kept in a second bfloat16). Of the fused forms only
      ``"triton"`` rounds in its pass; with the others such a group goes by foreach.
    - ``decay``, where there is a ``weight_decay`` κ: ``"plain"`` is that of the class.
      The others act beside the rule, which runs without decay, also where the class
      couples it to the gradient: ``"cautious"`` takes ηκw of the old weights w only
      where the step does not enlarge them, entry by entry; ``"corrected"`` multiplies
      κ by η/η_max; ``"cautious+corrected"`` does both. η_max is ``max_lr`` of the group
      (``OneCycleLR`` writes it), and without it the largest of ``lr`` so far and the
      ``initial_lr`` that schedules leave. Such groups go by foreach where a fused pass
      would decay in its own way.

    Parameters
    ----------
    params : iterable
        Parameters, named parameters, or groups, as in `torch.optim`.
    defaults : dict
        Hyper-parameters with ``lr`` among them; a group may override each. Flags of
        `torch.optim` that are not among them are off.

    Raises
    ------
    ValueError
        If a hyper-parameter of the defaults or of a group is out of range.
    """

    card: ClassVar[Card]
    silent: ClassVar[tuple[SilentPenalty, ...]] = ()
    tends_state: ClassVar[bool] = False  # `state_of` does more than make what misses
    rule: ClassVar[Rule] = Rule(coupled)

    def __init_subclass__(cls, **more: Any) -> None:
        """Refuse a rule written as methods, which nobody would call."""
        super().__init_subclass__(**more)
        cls.tends_state = cls.state_of is not BaseOptimizer.state_of
        for name in ("single", "multi", "new_state", "gradient_limit"):
            if name in vars(cls):
                raise TypeError(
                    f"{cls.__name__}.{name} is a method, but an optimizer holds its rule: "
                    f"write rule = Rule({name}=...), with a function without self"
                )

    # Entries of the state that are sums over a tensor, and so over its shards; that are
    # one number for all tensors; how names begin of what a step computes anew; and what
    # a group of a checkpoint had before its class knew such a setting.
    partial: ClassVar[tuple[str, ...]] = ()
    shared: ClassVar[tuple[str, ...]] = ()
    derived: ClassVar[str | None] = None
    before: ClassVar[tuple[tuple[str, Any], ...]] = ()

    state: Any
    param_groups: list[dict[str, Any]]
    _shards: Any = None
    _scanned: Any = None
    _watch: Watch | None = None
    _unwatched = 0  # steps that nobody need look at

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        defaults = {**FLAGS, **defaults}
        self.check(defaults)
        super().__init__(params, defaults)

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse impossible hyper-parameters, NaN among them; subclasses extend this.

        Parameters
        ----------
        group : mapping
            The defaults, or a group completed by the defaults.
        """
        lr = group["lr"]
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        at_least_zero("learning rate", lr)
        at_least_zero("weight_decay value", group.get("weight_decay", 0.0))
        if group["foreach"] and group["differentiable"]:
            raise ValueError(
                "foreach=True and differentiable=True cannot be combined; "
                "leave foreach=None to differentiate through the step"
            )
        dispatch.check_fused(type(self), group)
        check_rounding(group)
        check_decay(group)

    def together(self, group: Mapping[str, Any]) -> int:
        """How many numbers of a group should go through `multi` together on a CPU.

        As many as stay in the cache between one pass and the next; all of them where
        compiled code goes through each only once.
        """
        if not (fused := group.get("fused")):
            return CPU_BATCH
        kernel = self.rule_of(group).torch_kernel
        return FUSED_BATCH if fused is True and kernel else DEVICE_BATCH

    def rule_of(self, group: Mapping[str, Any]) -> Rule:
        """The rule of one of `rule_groups`: of the class, where it has only one."""
        return self.rule

    @property
    def warmup_steps(self) -> int:
        """How many gradients are only watched before a first move; 0 by default."""
        return 0

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again and returns the loss, which is returned.

        Raises
        ------
        RuntimeError
            If a gradient is sparse; nothing has changed then.
        """
        self._unwatched -= 1
        if self._unwatched < 0:
            self._watch = self._watch or Watch()
            self._unwatched = self._watch.look(self)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        lists = [group["params"] for group in self.param_groups]
        scanned = [(id(params), len(params)) for params in lists]
        if scanned != self._scanned:  # looked through once, not in every step
            self._scanned = scanned
            shards_of(self)
        if not self.state and checkpoint.only_makes_state(self):
            checkpoint.create_state(self, without_gradient=False)
            return loss
        self.heard(loss)
        if any(g["decay"] != "plain" for g in self.param_groups if "decay" in g):
            note_peaks(self.param_groups)
        if self._shards is not None:
            self._shards.step()
            return loss
        differentiable = any(g["differentiable"] for g in self.param_groups)
        with torch.set_grad_enabled(differentiable):
            self.apply(gather(self))
        return loss

    def heard(self, loss: Any) -> None:
        """Take note of what the closure returned, or refuse it; None without one."""

    def apply(self, batches: list[Batch]) -> None:
        """Run the rule over all batches; override it to couple tensors.

        Every tensor with a gradient is in one batch, and none is opened yet.
        """
        dispatch.apply(self, batches)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its hyper-parameters are checked before anything changes.

        Parameters
        ----------
        param_group : dict
            ``params`` and whatever differs from the defaults. It is not modified.

        Raises
        ------
        ValueError
            If a hyper-parameter is out of range, or only some parameters have names.
        RuntimeError
            If ``fused=True`` is asked for on the meta device.
        """
        if isinstance(param_group, dict):
            self.check({**self.defaults, **param_group})
            param_group = with_names(param_group, self.param_groups)
        super().add_param_group(param_group)
        group = self.param_groups.pop()
        must_hold_numbers(group["params"], group)
        self.param_groups.append(group)

    # State, and how it survives a checkpoint

    def state_of(self, p: Tensor, group: Mapping[str, Any]) -> State:
        """The state of a parameter, made at the first call."""
        state: State = self.state[p]
        seen = self.group_of(p, group)
        # there may be something of the user's, and what is switched on later is new
        if missing := self.entries(seen) - state.keys():
            made = fresh_state(p, seen, self.rule_of(seen).new_state)
            state.update({**made, **state})
            self.state_made(p, state, missing, seen)
        return state

    def state_made(
        self, p: Tensor, state: State, missing: set[str], group: Mapping[str, Any]
    ) -> None:
        """What was missing has just been made as it is of a new parameter."""

    def entries(self, group: Mapping[str, Any]) -> set[str]:
        """What every state of a group of `rule_groups` must hold."""
        more = self.rule_of(group).entries
        return {"step"} if more is None else {"step", *more(group)}

    @property
    def skipped(self) -> dict[str, int]:
        """How often each tensor, or an entry of it, was skipped for its gradient.

        In how many steps, of those with at least one: by name or, without names, as
        ``"group.index"``. Reading it waits for the device.
        """
        kept = [(x, self.state.get(p, {})) for x, p in named(self.param_groups)]
        counts = {name: int(state.get("skipped", 0)) for name, state in kept}
        return {name: count for name, count in counts.items() if count}

    def create_state(self) -> None:
        """Make the state of every parameter now rather than at its first gradient.

        For checkpoints that are loaded into what is there, as those of
        `torch.distributed.checkpoint` are, and for sharded training, where every
        process must hold the same entries. Call it before ``get_optimizer_state_dict``
        or ``set_optimizer_state_dict``, which otherwise find nothing to load into.
        """
        checkpoint.create_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._watch, self._unwatched = None, 0  # what was counted is another run
        for group in self.param_groups:
            for name, default in {**self.defaults, **dict(self.before)}.items():
                group.setdefault(name, default)

    def state_dict(self) -> dict[str, Any]:
        """As in `torch.optim`, with a list of names of the class under ``saved_by``.

        The state of DTensors is made of DTensors; all processes take part in that.
        """
        return checkpoint.saved(self, super().state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint that fits; the state keeps its own dtype.

        Each entry returns to the dtype that a fresh state would have, as a copy:
        float32 averages of bfloat16 parameters are not rounded, as `torch.optim` does.
        It may come from this class, from one that it derives from or that derives from
        it, or from the class of `torch.optim` with the same state. A parameter may be
        without state; hyper-parameters that the groups lack have their defaults. What a
        user has put into the state of this class comes back too.

        Parameters
        ----------
        state_dict : dict
            What `state_dict` returned; for DTensor parameters whole tensors do too,
            and all processes take part.

        Raises
        ------
        ValueError
            If it does not fit: another class, an entry that is missing, unknown or of
            another shape, a hyper-parameter out of range. Nothing has changed then, nor
            where a hook raises.
        """
        checkpoint.load(self, state_dict, super().load_state_dict)

    def awaited(self, fresh: State, saved: Mapping[str, Any]) -> State:
        """What a checkpoint should hold, and what stands for entries it may lack."""
        start = self.derived
        if start is None or any(name.startswith(start) for name in saved):
            return fresh
        return {name: x for name, x in fresh.items() if not name.startswith(start)}

    def adopted(
        self,
        group: dict[str, Any],
        own: Mapping[str, Any],
        states: list[Mapping[str, Any]],
    ) -> dict[str, Any]:
        """A group of a checkpoint in the terms of this class."""
        return {**dict(self.before), **group}

    # What `core.sharding` asks of a rule whose parameters lie on many processes

    def group_of(self, p: Tensor, group: Mapping[str, Any]) -> Mapping[str, Any]:
        """A group as the rule of one of its tensors sees it; asking twice is once."""
        return group

    @property
    def rule_groups(self) -> list[dict[str, Any]]:
        """The groups as the rules see them: the tensors of each have one rule."""
        return self.param_groups

    def needs_whole(self, group: Mapping[str, Any]) -> bool:
        """Whether the rule must see the tensors of a group whole."""
        return not self.rule_of(group).entrywise

    @property
    def couples(self) -> bool:
        """Whether the step of one tensor depends on other tensors."""
        return False

    def over_all(self, x: Tensor) -> Tensor:
        """A small tensor of every process that takes part in this step."""
        every: Tensor = x[None] if self._shards is None else self._shards.everyone(x)
        return every

    def norm_over_all(self, x: Tensor, order: float) -> Tensor:
        """The norm of all processes' lengths; `x` itself where there is one process."""
        every = self.over_all(x)
        return x if len(every) == 1 else torch.linalg.vector_norm(every, order)

    def quiet_states(self, group: Mapping[str, Any]) -> list[State]:
        """What is kept here of tensors that another process computes in this step."""
        return [] if self._shards is None else self._shards.quiet_states(group)
