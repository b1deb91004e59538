"""Checkpoints, copies, and the dtype of what is averaged."""

from __future__ import annotations

import copy
import gc
import io
from itertools import pairwise
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from .subject import Subject, Trial, equal_bits, parting, refusal, require, weight


class State(Subject):
    """Checkpoints, copies, and the dtype of what is averaged."""

    def _trained(self, *params: Tensor) -> Trial:
        """A trial after three steps, of two matrices if none are given."""
        trial = self.on(*(params or (weight(), weight(3, 5))))
        trial.train()
        return trial

    def _copy(self, trial: Trial) -> Trial:
        return self.fresh(*(p.requires_grad_() for p in trial.now()))

    def _resumed(self, trial: Trial) -> Trial:
        """Another, from its checkpoint."""
        resumed = self._copy(trial)
        _resume(resumed, _file(trial))
        return resumed

    def checkpoint(self) -> None:
        """A resumed run is another run, or the safe loader refuses the file."""
        trial = self._trained()
        apart = parting(trial, self._resumed(trial))
        require(apart == 0, "after a resume the steps differ from those without")

    def checkpoint_of_bfloat16(self) -> None:
        """Averages of bfloat16 models are rounded away at every resume."""
        half = torch.bfloat16
        trial = self._trained(weight(dtype=half), weight(3, 5, dtype=half))
        resumed = self._resumed(trial)
        for p, q in zip(trial.params, resumed.params, strict=True):
            found = resumed.kept(q)
            for name, value in trial.kept(p).items():
                require(name in found, f"state {name} is gone")
                old, new = value.dtype, found[name].dtype
                require(new == old, f"state {name} came back as {new}, not {old}")
        apart = parting(trial, resumed)
        require(apart == 0, "after a resume the steps differ from those without")

    def loaded_state_is_a_copy(self) -> None:
        """Two optimizers that share a state dict train on one another's averages."""
        trial = self._trained(weight())
        second = self._copy(trial)
        second.optimizer.load_state_dict(trial.optimizer.state_dict())
        before = copy.deepcopy(trial.kept(trial.params[0]))
        second.train()
        for name, value in trial.kept(trial.params[0]).items():
            alone = equal_bits(value, before[name])
            require(alone, f"state {name} is shared after loading")

    def deep_copy(self) -> None:
        """A copied trainer moves the original, or continues differently."""
        trial = self._trained(weight(), weight(), weight(3, 5), weight())
        copied = copy.deepcopy(trial.optimizer)
        twin = Trial(copied, copied.param_groups[0]["params"])
        apart = twin.params[0] is not trial.params[0]
        require(apart, "the copy holds the original's parameter")
        before = trial.now()
        torch.manual_seed(2)
        twin.train()
        require(trial.stands_at(before), "a step of the copy moved the original")
        torch.manual_seed(2)
        trial.train()
        equal = trial.stands_at(twin.params)
        require(equal, "the copy continues differently from the original")

    def foreign_checkpoint(self) -> None:
        """The state of another class is taken for its own, and wrecks the weights."""
        trial = self._trained()
        others = (torch.optim.Rprop, torch.optim.Adadelta)
        other = next(kind for kind in others if not isinstance(trial.optimizer, kind))
        foreign = State(other)._trained().optimizer.state_dict()
        _must_refuse(trial, foreign, f"a checkpoint of {other.__name__}")

    def torn_checkpoint(self) -> None:
        """What a checkpoint has lost is made up, or found out in the middle of a step."""
        trial = self._trained()
        saved = trial.optimizer.state_dict()
        (first, entries), *_ = saved["state"].items()
        for name, value in entries.items():
            without = {k: x for k, x in entries.items() if k != name}
            torn = {**saved, "state": {**saved["state"], first: without}}
            _must_refuse(trial, torn, f"a checkpoint without one {name}", name)
            if isinstance(value, Tensor) and value.ndim:
                longer = {**entries, name: value.new_zeros(7, *value.shape)}
                torn = {**saved, "state": {**saved["state"], first: longer}}
                _must_refuse(trial, torn, f"one {name} of another shape", name)

    def bad_group_in_a_checkpoint(self) -> None:
        """A hyper-parameter that no constructor takes comes in through a checkpoint."""
        trial = self._trained()
        saved = trial.optimizer.state_dict()
        groups = [{**group, "lr": float("nan")} for group in saved["param_groups"]]
        _must_refuse(trial, {**saved, "param_groups": groups}, "a rate of NaN")

    def entry_of_the_user(self) -> None:
        """What users or their hooks keep in the state breaks the next step."""
        trial = self.fresh(weight(), weight(3, 5))
        plain = self.fresh(weight(), weight(3, 5))
        state: Any = trial.optimizer.state
        note = {"name": "mine"}
        state[trial.params[0]]["note"] = note
        for _ in range(2):
            apart = parting(trial, plain)
            state["run"] = "mine"
            state[trial.params[1]]["seen"] = torch.ones(2)
        require(apart == 0, "entries of the user change the steps")
        found: Any = trial.optimizer.state[trial.params[0]]
        require(found.get("note") == note, "an entry of the user is gone after a step")
        _resume(trial, _file(trial))
        found = trial.optimizer.state[trial.params[0]].get("note")
        require(found == note, "an entry of the user is gone after a resume")

    def separate_memory(self) -> None:
        """Files that store every tensor apart, as safetensors does, refuse the state."""
        trial = self._trained(weight(), weight(), weight(3, 5))
        places = []
        for state in trial.optimizer.state_dict()["state"].values():
            for name, x in state.items():
                if isinstance(x, Tensor) and x.numel():
                    require(x.is_contiguous(), f"state {name} is not contiguous")
                    start = x.data_ptr()
                    places.append((start, start + x.numel() * x.element_size(), name))
        for (_, end, name), (start, _, other) in pairwise(sorted(places)):
            require(end <= start, f"state {name} and {other} share memory")

    def removed_parameter(self) -> None:
        """A parameter that was taken out of the groups keeps its memory for ever."""
        trial = self._trained(weight(), weight(), weight(3, 5))
        kept, *gone = trial.params
        watch = ref(gone[0])
        for group in trial.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p is kept]
        trial.params = [kept]
        while gone:
            trial.optimizer.state.pop(gone.pop(), None)
        trial.step()
        gc.collect()
        require(watch() is None, "something still holds the parameter")


def _file(trial: Trial) -> bytes:
    """All that a checkpoint of it holds, bit by bit."""
    file = io.BytesIO()
    torch.save(copy.deepcopy(trial.optimizer.state_dict()), file)
    return file.getvalue()


def _resume(trial: Trial, file: bytes) -> None:
    trial.optimizer.load_state_dict(torch.load(io.BytesIO(file), weights_only=True))


def _must_refuse(
    trial: Trial, saved: dict[str, Any], what: str, name: str = ""
) -> None:
    """Loading must raise, name what is wrong, and change nothing."""
    before, kinds = _file(trial), (ValueError, KeyError, TypeError, RuntimeError)
    error = refusal(lambda: trial.optimizer.load_state_dict(saved), *kinds)
    if error is None:
        raise AssertionError(f"{what} was loaded")
    require(name in error, f"{what}: the error does not name {name}")
    require(_file(trial) == before, f"{what}: refused, and yet it changed")
