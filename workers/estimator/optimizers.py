"""Optimizers as they allocate: states at the first step, and the temporaries of each implementation.

Torch's own in their foreach form, which is what they take on CUDA, and transformers' Adafactor are the real ones. Fused
and bitsandbytes' kernels change tensors in place and allocate nothing but their states, so those are stand-ins.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn
from transformers import Adafactor

from workers.builders.optimizer import BLOCK_8BIT, FEWEST_8BIT_VALUES, FEWEST_PAGED_VALUES
from workers.estimator.build import DTYPES
from workers.estimator.request import Request
from workers.estimator.tracker import Tracker

_LIKE_PARAMETERS = frozenset({"adamw_fused"})
"""Torch's own, whose states have the parameters' dtype."""
_MOMENTS = {"adamw": 2, "lion": 1}
"""State tensors of a parameter's shape."""


class Steps(Protocol):
    def step(self) -> Any: ...


class StateOptimizer:
    """States for each parameter, made at the first step. Paged states live in unified memory and are not counted; the
    scales of paged 8-bit ones are."""

    def __init__(self, request: Request, parameters: list[nn.Parameter], owners: dict[int, int], tracker: Tracker):
        kind = request.training.optimizer_kind
        self._paged = kind.startswith("paged_")
        self._eight_bit = kind.endswith("_8bit")
        self._moments = _MOMENTS[kind.removeprefix("paged_").split("_")[0]]
        wanted = request.training.optimizer_dtype
        self._dtype = DTYPES[wanted] if wanted else (None if kind in _LIKE_PARAMETERS else torch.float32)
        self._parameters, self._owners, self._tracker = parameters, owners, tracker
        self._states: list[torch.Tensor] = []

    def step(self) -> None:
        if self._states:
            return
        with self._tracker.counting_as("optimizer"):
            for parameter in self._parameters:
                self._tracker.owner = self._owners[id(parameter)]
                self._states.extend(self._make(parameter))

    def _make(self, parameter: nn.Parameter) -> Iterator[torch.Tensor]:
        count = parameter.numel()
        has_scales = self._eight_bit and count >= FEWEST_8BIT_VALUES
        lives_elsewhere = self._paged and count >= FEWEST_PAGED_VALUES
        for _ in range(self._moments):
            if has_scales:
                yield torch.empty(-(-count // BLOCK_8BIT), dtype=torch.float32, device="meta")
            if has_scales and not lives_elsewhere:
                yield torch.empty(parameter.shape, dtype=torch.uint8, device="meta")
            elif not lives_elsewhere:
                yield torch.empty(parameter.shape, dtype=self._dtype or parameter.dtype, device="meta")
        if not self._eight_bit and self._dtype is None:
            yield torch.empty((), dtype=torch.float32, device="meta")


class RealOptimizer:
    """A torch optimizer whose allocations are the optimizer's: states when they stay, temporaries when they don't.

    It is made when it is first used, because some make their states with themselves.
    """

    def __init__(self, make: Callable[[], torch.optim.Optimizer], tracker: Tracker, owner: int = -1) -> None:
        self._make, self._tracker, self._owner = make, tracker, owner
        self._optimizer: torch.optim.Optimizer | None = None

    def step(self) -> None:
        self._tracker.owner = self._owner
        with self._tracker.counting_as("optimizer"):
            if self._optimizer is None:
                self._optimizer = self._make()
            self._optimizer.step()


class Each:
    """An optimizer that goes from parameter to parameter, one for each layer, so that it is known whose allocations are
    whose. What it still holds of a parameter while it works on the next is small where a layer ends: a norm's."""

    def __init__(self, optimizers: list[RealOptimizer]) -> None:
        self._optimizers = optimizers

    def step(self) -> None:
        for optimizer in self._optimizers:
            optimizer.step()


def build_optimizer(request: Request, model: nn.Module, tracker: Tracker, owners: dict[int, int]) -> Steps:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kind = request.training.optimizer_kind
    wanted = request.training.optimizer_dtype
    if wanted is not None and kind == "adamw_foreach" and any(item.dtype != DTYPES[wanted] for item in trained):
        return StateOptimizer(request, trained, owners, tracker)  # states of another dtype are not torch's own AdamW
    if kind == "adafactor":
        layers: dict[int, list[nn.Parameter]] = {}
        for item in trained:
            layers.setdefault(owners[id(item)], []).append(item)
        return Each([RealOptimizer(partial(_make_adafactor, layers[owner]), tracker, owner) for owner in layers])
    if kind in _REAL:
        return RealOptimizer(partial(_REAL[kind], trained), tracker)
    return StateOptimizer(request, trained, owners, tracker)


_REAL: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw_foreach": partial(torch.optim.AdamW, foreach=True),
    "sgd": partial(torch.optim.SGD, lr=1e-3, foreach=True),
    "sgd_momentum": partial(torch.optim.SGD, lr=1e-3, momentum=0.9, foreach=True),
    "adagrad": partial(torch.optim.Adagrad, foreach=True),
    "rmsprop": partial(torch.optim.RMSprop, foreach=True),
}


def _make_adafactor(parameters: list[nn.Parameter]) -> Adafactor:
    """As transformers' Trainer makes it."""
    return Adafactor(parameters, lr=1e-3, scale_parameter=False, relative_step=False)
