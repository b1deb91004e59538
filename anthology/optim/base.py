"""The contract that every optimizer of the package keeps, written once.

A new optimizer states its hyper-parameters and their limits (`check`), its state
(`new_state`) and one update rule, for one tensor (`single`, the definition) and, if
it wants the speed, for a list of tensors (`multi`). Everything else is here:
closures, hooks, `maximize`, gradients that are None, sparse, complex, narrow, huge
or NaN, parameter groups, Tensor learning rates, state that survives a checkpoint in
its own dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .batch import Batch, State, real, reads_flags_for_free, state_dtype

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

# Elements that go through a rule together. On a CPU the tensors of one batch should
# stay in the cache between the passes over them; on a device the limit bounds the
# memory for the copies that the NaN policy keeps.
CPU_BATCH = 2**16
DEVICE_BATCH = 2**25


@dataclass(frozen=True)
class Card:
    """What the table of optimizers says about a class.

    Attributes
    ----------
    problem : str
        The problem that one step solves, one line of markdown.
    norm : str
        The norm in which the step is measured.
    average : str
        What is averaged over time.
    state : str
        Numbers kept for each parameter (counters of a tensor not included).
    source : str
        Paper and equation.
    """

    problem: str
    norm: str
    average: str
    state: str
    source: str


class BaseOptimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` that needs only an update rule.

    A tensor whose gradient is not finite is skipped whole: neither the parameter
    nor its state changes, weight decay included, and `skipped` counts it.

    Parameters
    ----------
    params : iterable
        Parameters, named parameters, or groups, as in `torch.optim`.
    defaults : dict
        Hyper-parameters; a group may override each of them.

    Raises
    ------
    ValueError
        If a hyper-parameter of the defaults or of a group is out of range.
    """

    card: ClassVar[Card]

    def __init__(self, params: Params, defaults: dict[str, Any]) -> None:
        self.check(defaults)
        super().__init__(params, defaults)

    # ------------------------------------------------- what a subclass provides
    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse impossible hyper-parameters; subclasses extend this.

        Parameters
        ----------
        group : mapping
            The defaults, or a group completed by the defaults.

        Raises
        ------
        ValueError
            If a value is out of range. NaN always is.
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

    def new_state(self, param: Tensor, group: Mapping[str, Any]) -> State:
        """The initial state of one parameter.

        Parameters
        ----------
        param : Tensor
            A real tensor, at least float32, with the shape the rule will see.
        group : mapping
            The parameter's group.

        Returns
        -------
        dict of str to Tensor
            Empty for an optimizer without averages.
        """
        return {}

    def gradient_limit(self, grad: Tensor, group: Mapping[str, Any]) -> float:
        """The largest entry of a gradient that the state can hold.

        Parameters
        ----------
        grad : Tensor
            The gradient, real, at least float32.
        group : mapping
            Its group.

        Returns
        -------
        float
            A gradient beyond it is treated as one that is not finite. An optimizer
            that keeps squares returns the square root of the largest number.
        """
        return torch.finfo(grad.dtype).max

    def single(
        self,
        param: Tensor,
        grad: Tensor,
        state: State,
        step: Any,
        group: Mapping[str, Any],
    ) -> None:
        """Update one tensor and its state in place: the definition of the method.

        Parameters
        ----------
        param, grad : Tensor
            Real, finite, equal shape and dtype. `grad` must not be written.
        state : dict of str to Tensor
            As `new_state` made it.
        step : float or 0-d Tensor
            Number of steps of this parameter, this one included.
        group : mapping
            Hyper-parameters; ``lr`` is a float or a 0-d tensor.
        """
        raise NotImplementedError

    def multi(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        states: list[State],
        steps: list[Any],
        group: Mapping[str, Any],
    ) -> None:
        """The same for tensors of one device and dtype; by default a loop.

        Parameters
        ----------
        params, grads, states, steps : list
            As for `single`, one entry a tensor.
        group : mapping
            Hyper-parameters of all of them.
        """
        for args in zip(params, grads, states, steps, strict=True):
            self.single(*args, group)

    # ------------------------------------------------------------ what users call
    @property
    def skipped(self) -> dict[str, int]:
        """How often each tensor was skipped because its gradient was not finite.

        Returns
        -------
        dict of str to int
            Only tensors skipped at least once, by name, or as ``"group.index"``
            where parameters have no names. Reading it waits for the device.
        """
        counts = {}
        for number, group in enumerate(self.param_groups):
            names = group.get("param_names")
            for index, p in enumerate(group["params"]):
                count = int(self.state[p]["skipped"]) if self.state.get(p) else 0
                if count:
                    counts[names[index] if names else f"{number}.{index}"] = count
        return counts

    def create_state(self) -> None:
        """Make the state of every parameter now rather than at its first gradient.

        For checkpoints and sharded training, where every process must hold the same
        entries whether or not a parameter has had a gradient yet.
        """
        for group in self.param_groups:
            for p in group["params"]:
                self.state_of(p, group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again and returns the loss.

        Returns
        -------
        object
            What the closure returned, or None.

        Raises
        ------
        RuntimeError
            If a gradient is sparse; nothing has changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        differentiable = any(g["differentiable"] for g in self.param_groups)
        with torch.set_grad_enabled(differentiable):
            self.apply(self._batches())
        return loss

    def apply(self, batches: list[Batch]) -> None:
        """Run the rule over all batches; override it to couple tensors.

        Parameters
        ----------
        batches : list of Batch
            Every tensor with a gradient, each in one batch, not yet opened.
        """
        for batch in batches:
            batch.open(self)
            rule = self.multi if use_foreach(batch) else self._loop
            rule(batch.params, batch.grads, batch.states, batch.steps, batch.group)
            batch.close(self)

    def _loop(self, *args: Any) -> None:
        BaseOptimizer.multi(self, *args)

    def _batches(self) -> list[Batch]:
        chosen = [self._with_gradient(group) for group in self.param_groups]
        batches = []
        for group, tensors in zip(self.param_groups, chosen, strict=True):
            for part in split(tensors):
                lr = resolve_lr(group["lr"], part[0].device)
                batches.append(Batch({**group, "lr": lr}, part))
        return batches

    def _with_gradient(self, group: Mapping[str, Any]) -> list[Tensor]:
        tensors = []
        for p in group["params"]:
            if p.grad is None:
                continue
            if p.grad.layout != torch.strided:
                name = type(self).__name__
                raise RuntimeError(f"{name} does not support sparse gradients")
            if p.numel():
                tensors.append(p)
        return tensors

    # ------------------------------------------------------------- state, groups
    def state_of(self, p: Tensor, group: Mapping[str, Any]) -> State:
        """The state of a parameter, made at the first call.

        Parameters
        ----------
        p : Tensor
            A parameter of this optimizer.
        group : mapping
            Its group.

        Returns
        -------
        dict of str to Tensor
            Its state, in at least float32, on the parameter's device. ``step`` and
            ``skipped`` count the steps it took and those it did not.
        """
        state = self.state[p]
        if not state:
            state.update(self._fresh(p, group))
        return state

    def _fresh(self, p: Tensor, group: Mapping[str, Any]) -> State:
        with torch.no_grad():
            model = torch.empty_like(p, dtype=state_dtype(p.dtype))
            view = real(model)
            made = self.new_state(view, group)
            if p.is_complex():
                made = {
                    k: torch.view_as_complex(v) if v.shape == view.shape else v
                    for k, v in made.items()
                }
        counter = torch.zeros((), dtype=torch.float32, device=p.device)
        return {"step": counter, "skipped": counter.clone(), **made}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; its hyper-parameters are checked before anything changes.

        Parameters
        ----------
        param_group : dict
            ``params`` and whatever differs from the defaults. It is not modified.

        Raises
        ------
        ValueError
            If a hyper-parameter is out of range.
        """
        if isinstance(param_group, dict):
            param_group = dict(param_group)
            self.check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, default in self.defaults.items():
                group.setdefault(name, default)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint; the state keeps its own dtype.

        `torch.optim` casts state to the dtype of the parameter, which would round
        the float32 averages of bfloat16 parameters at every resume. Here each entry
        returns to the dtype that a fresh state would have, as a copy.

        Parameters
        ----------
        state_dict : dict
            What `state_dict` returned.

        Raises
        ------
        ValueError
            If the groups do not match those of this optimizer.
        """
        final: dict[str, Any] = {}

        def remember(_: Any, loaded: dict[str, Any]) -> None:
            final.update(loaded)

        def recast(_: Any) -> None:
            self._restore(final)

        hooks = (
            self.register_load_state_dict_pre_hook(remember),
            self.register_load_state_dict_post_hook(recast, prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _restore(self, loaded: dict[str, Any]) -> None:
        groups = zip(self.param_groups, loaded["param_groups"], strict=True)
        for group, saved_group in groups:
            for p, key in zip(group["params"], saved_group["params"], strict=True):
                saved = loaded["state"].get(key)
                if not saved:
                    continue
                state = self._fresh(p, group)
                for name, value in saved.items():
                    like = state.get(name)
                    if isinstance(value, Tensor) or like is not None:
                        dtype = like.dtype if like is not None else None
                        value = torch.as_tensor(value).to(p.device, dtype, copy=True)
                    state[name] = value
                self.state[p] = state


def at_least_zero(what: str, value: Any) -> None:
    """Refuse a negative or NaN hyper-parameter, in the words of `torch.optim`.

    Parameters
    ----------
    what : str
        Its name in the message.
    value : float or Tensor
        Its value.

    Raises
    ------
    ValueError
        If the value is not a number of at least zero.
    """
    if not 0.0 <= value:
        raise ValueError(f"Invalid {what}: {value}")


def resolve_lr(lr: float | Tensor, device: torch.device) -> float | Tensor:
    """The learning rate as a float where reading it is free, else as a 0-d tensor.

    Parameters
    ----------
    lr : float or Tensor
        As it stands in the group.
    device : torch.device
        Where the parameters are.

    Returns
    -------
    float or Tensor
        A tensor only if autograd follows it or the host would have to wait for it.
    """
    if not isinstance(lr, Tensor):
        return lr
    if lr.requires_grad:
        return lr.reshape(()).to(device)
    if reads_flags_for_free(lr.device) or reads_flags_for_free(device):
        return float(lr)
    return lr.reshape(()).to(device, non_blocking=True)


def use_foreach(batch: Batch) -> bool:
    """Whether a batch goes through `multi`.

    Parameters
    ----------
    batch : Batch
        Tensors and their group.

    Returns
    -------
    bool
        The group's ``foreach``, or, where that is None, whether the tensors are
        plain ones (subclasses may not know the list operations).
    """
    foreach = batch.group.get("fused") or batch.group["foreach"]
    if foreach is not None or batch.group["differentiable"]:
        return bool(foreach)
    return all(type(p) in (Tensor, torch.nn.Parameter) for p in batch.tensors)


def split(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Split a list by device, dtype and total size, keeping its order.

    Parameters
    ----------
    tensors : list of Tensor
        The tensors of one group.

    Returns
    -------
    list of list of Tensor
        Parts of one device and dtype; a part is larger than the limit only if it
        is a single tensor.
    """
    parts: dict[Any, list[list[Tensor]]] = {}
    sizes: dict[Any, int] = {}
    for p in tensors:
        kind = (p.device, p.dtype)
        limit = CPU_BATCH if p.device.type == "cpu" else DEVICE_BATCH
        lists = parts.setdefault(kind, [])
        if not lists or sizes[kind] + p.numel() > limit:
            lists.append([])
            sizes[kind] = 0
        lists[-1].append(p)
        sizes[kind] += p.numel()
    return [part for lists in parts.values() for part in lists]
