"""What a step is given: gradients, and tensors of any shape, layout and dtype."""

from __future__ import annotations

import math
from typing import Any

import torch

from .subject import Subject, equal_bits, parting, refusal, require, weight


class Gradients(Subject):
    """What an optimizer does with gradients, good ones and bad ones."""

    def gradient_not_mutated(self) -> None:
        """Clipping, logging and accumulation after the step read wrong numbers."""
        p: Any = weight()
        trial = self.on(p)
        for g in torch.randn(3, 4, 3):
            trial.step(g)
            require(p.grad is not None, "step() removed p.grad")
            require(equal_bits(p.grad, g), "step() changed the numbers in p.grad")

    def gradient_kept(self) -> None:
        """Buffers that alias p.grad (DDP buckets, accumulation) silently come apart."""
        p = weight()
        trial = self.on(p)
        p.grad = given = torch.randn(4, 3)
        trial.optimizer.step()
        require(p.grad is given, "step() replaced p.grad by another tensor or None")

    def missing_gradient(self) -> None:
        """Frozen layers and unused experts crash the step or drift by decay."""
        p = weight()
        trial = self.fresh(p, weight(3, 5))
        trial.optimizer.step()
        trial.warm(p)
        trial.step(torch.randn(4, 3), None)
        require(not trial.moved(1), "a parameter without gradient moved")
        require(trial.moved(0), "the parameter with a gradient did not")

    def late_gradient(self) -> None:
        """A layer that is unfrozen or routed to later crashes the step or never moves."""
        p = weight()
        trial = self.fresh(p, weight(3, 5))
        for _ in range(3):
            trial.step(torch.randn(4, 3), None)
        trial.warm()
        trial.step()
        require(trial.finite(), "a parameter is not finite")
        require(trial.moved(1), "the late parameter did not move")

    def first_move(self) -> None:
        """The first gradients are thrown away, and no schedule or log knows of it."""
        trial = self.fresh(weight())
        trial.warm()
        watched = trial.warm_up
        only = f"the {watched} gradients that it declares only to watch"
        require(not trial.moved(), f"it moved within {only}")
        trial.step()
        require(trial.moved(), f"it did not move at gradient {watched + 1}")

    def zero_gradient(self) -> None:
        """Parameters without any signal random-walk, or become NaN by 0/0."""
        trial = self.on(torch.zeros(4, 3).requires_grad_())
        for _ in range(3):
            trial.step(torch.zeros(4, 3))
        require(trial.finite(), "a zero gradient gave a parameter that is not finite")
        require(not trial.moved(), "a zero gradient moved a parameter at zero")

    def tiny_gradient(self) -> None:
        """Late in training a layer is divided by zero and becomes NaN."""
        trial = self.on(weight())
        for _ in range(3):
            trial.step(1e-30 * torch.randn(4, 3))
        require(trial.finite(), "gradients of 1e-30 gave NaN or infinity")

    def huge_gradient(self) -> None:
        """One spike overflows the state, and the layer is frozen for ever after."""
        self._recovers(1e30, 1.0, "a gradient of 1e30")

    def nan_gradient(self) -> None:
        """One bad batch ruins the run: the parameter or its state stays NaN."""
        self._recovers(1.0, math.nan, "a gradient with one NaN")

    def infinite_gradient(self) -> None:
        """One overflow ruins the run: the parameter or its state stays NaN."""
        self._recovers(1.0, math.inf, "a gradient with one infinity")

    def nan_skips_the_tensor(self) -> None:
        """What should sit out a bad batch is moved by decay or old momentum.

        That is the tensor or, where a rule works entry by entry, the entry.
        """
        trial = self.on(weight())
        trial.step()
        before = trial.now()
        trial.step(torch.full((4, 3), math.nan))
        require(trial.stands_at(before), "a parameter with a NaN gradient was moved")
        spoilt = torch.randn(4, 3)
        spoilt[1, 2] = math.nan
        trial.step(spoilt)
        kept = equal_bits(trial.now()[0][1, 2], before[0][1, 2])
        require(kept, "an entry with a NaN gradient was moved")

    def nan_spares_the_others(self) -> None:
        """One bad layer stops or poisons every other layer."""
        ends = []
        for spoiled in (torch.full((3, 5), math.nan), None):
            torch.manual_seed(1)
            p = weight()
            trial = self.on(p, weight(3, 5))
            trial.step()
            trial.step(torch.randn(4, 3), spoiled)
            slope = torch.randn(4, 3)
            for _ in range(12):  # long enough for an adapted step size to show it
                trial.step(slope, None)
            ends.append(p.detach())
        require(ends[0].isfinite().all(), "NaN in one tensor spread to another")
        other = "did not move as if that one had no gradient"
        require(equal_bits(*ends), f"a tensor beside one with NaN {other}")

    def _recovers(self, factor: float, spoilt: float, what: str) -> None:
        """After one bad gradient the parameter can be put back and trains on."""
        bad = factor * torch.randn(4, 3)
        bad[1, 2] *= spoilt
        trial = self.on(weight())
        trial.step()
        trial.step(bad)
        require(trial.finite() or spoilt == 1, f"{what} made the parameter NaN")
        trial.put([torch.zeros(4, 3)])
        trial.train()
        require(trial.finite(), f"after {what} the parameter becomes NaN again")
        still = trial.stands_at([torch.zeros(4, 3)])
        require(not still, f"after {what} it does not move any more")


class Tensors(Subject):
    """Shapes, layouts and number types."""

    def _descends(self, *shape: int, dtype: torch.dtype = torch.float32) -> None:
        # From zero, where even bfloat16 resolves a small step.
        p = torch.zeros(shape, dtype=dtype).requires_grad_()
        before, after = self.on(p).descend(30)
        require(p.dtype == dtype, f"the parameter became {p.dtype}")
        require(after < before, f"30 steps did not lower a quadratic on shape {shape}")

    def scalar_parameter(self) -> None:
        """Temperatures and other learned scalars cannot be trained."""
        self._descends()

    def vector_parameter(self) -> None:
        """Biases and gains cannot be trained: a second optimizer is needed."""
        self._descends(5)

    def matrix_parameter(self) -> None:
        """Linear layers cannot be trained."""
        self._descends(4, 3)

    def three_axes(self) -> None:
        """Stacked experts and one-dimensional convolutions cannot be trained."""
        self._descends(2, 3, 4)

    def four_axes(self) -> None:
        """Convolutions cannot be trained."""
        self._descends(4, 3, 2, 2)

    def empty_parameter(self) -> None:
        """A model with an empty tensor (a sharded or pruned layer) crashes."""
        trial = self.on(weight(), torch.empty(0, 3).requires_grad_())
        trial.train(2)
        require(trial.finite(), "an empty tensor made its neighbour NaN")
        require(trial.moved(), "an empty tensor stopped its neighbour")

    def non_contiguous_parameter(self) -> None:
        """Transposed or sliced weights are trained with permuted numbers."""
        start, gradients = torch.randn(4, 6), [torch.randn(4, 6) for _ in range(3)]
        transposed = start.t().contiguous().t().requires_grad_()
        sliced = torch.stack([start, start], -1)[..., 0].requires_grad_()
        plain = start.clone().requires_grad_()
        for p in (plain, transposed, sliced):
            trial = self.on(p)
            for g in gradients:
                trial.step(g.t().contiguous().t())
            moved = p.detach() - plain.detach()
            require(moved.abs().max() < 1e-5, f"strides {p.stride()} change the step")

    def bfloat16_parameter(self) -> None:
        """Models in bfloat16 crash, change their dtype or do not train."""
        self._descends(4, 3, dtype=torch.bfloat16)

    def float64_parameter(self) -> None:
        """Double precision is asked for and single precision is computed."""
        self._descends(4, 3, dtype=torch.float64)
        p = weight(dtype=torch.float64)
        trial = self.on(p)
        trial.step()
        for name, value in trial.kept(p).items():
            if value.is_floating_point() and value.dim():
                require(value.dtype == torch.float64, f"state {name} is {value.dtype}")

    def complex_parameter(self) -> None:
        """Spectral layers and wave models crash or lose their imaginary part."""
        p = (weight() * (1 + 2j)).detach().requires_grad_()
        before, after = self.on(p).descend(30)
        require(p.dtype == torch.complex64, f"the parameter became {p.dtype}")
        require(after < before, "30 steps did not lower a quadratic")
        moved = (p.detach() - (1 + 2j)).imag
        require(moved.abs().max() > 0, "the imaginary part did not move")

    def sparse_gradient(self) -> None:
        """A sparse embedding fails with a message about something else, or silently."""
        text = "does not support sparse gradients"
        dense, sparse = self.on(weight()), self.on(weight())
        g = torch.zeros(4, 3)
        g[1] = 1.0
        dense.step(g)
        error = refusal(lambda: sparse.step(g.to_sparse()), RuntimeError)
        if error is None:
            apart = parting(dense, sparse, steps=0)
            require(apart < 1e-6, "a sparse gradient gives another step than a dense")
        else:
            require(text in error, f"the error does not say '{text}': {error}")
            require(not sparse.moved(), "the parameter moved before the error")
