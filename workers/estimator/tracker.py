"""Births and deaths of storages: every operation of a step passes here, on meta tensors that have no data.

A recording is a stream of events in their real order. An allocation has a number, a size and what it is for; the
stream is cut into sections (a layer's forward, the loss, a layer's backward, …) so that it can be stretched to more
layers (depth.py) and played against an allocator (allocator.py).
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, KeysView
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from workers.estimator.replay import Replay

Label = tuple[str, int]
"""A section: its name, and the layer that it is about or -1."""


class Born(NamedTuple):
    """An allocation. `owner` is the layer that it belongs to, or -1; sizes are as asked for, not rounded.

    `rows` is the length of its first dimension, along which FSDP divides; 0 for what each device has whole. `stream`
    0 is the one that computes.
    """

    size_bytes: int
    kind: str
    owner: int
    rows: int = 0
    stream: int = 0


_replay = Replay()

_active: ContextVar["Tracker | None"] = ContextVar("active_tracker", default=None)


def count_rows(tensor: torch.Tensor) -> int:
    """The length of the first dimension; a scalar has none."""
    return tensor.shape[0] if tensor.dim() else 0


def count_flops(amount: int) -> None:
    """Count what a stand-in does not really multiply."""
    tracker = _active.get()
    if tracker is not None:
        tracker.count_flops(amount)


class Tracker(TorchDispatchMode):
    """Counts each storage on the meta device once, from the operation that made it to its last reference.

    `events` holds n for the birth of allocation n and ~n for its death; `marks` the sections' first events.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[int] = []
        self.births: list[Born] = []
        self.marks: list[tuple[int, Label]] = []
        self.flops: dict[Label, int] = {}
        self.parameters: dict[int, tuple[int, int]] = {}
        """Trained parameters and all, by layer."""
        self.kind = "activations"
        self.owner = -1
        self.section: Label = ("start", -1)
        self._numbers: dict[int, int] = {}
        self._references: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._fresh: dict[Any, bool] = {}
        self.collective: dict[int, Counter[int]] = {}
        self._spreads = False

    @property
    def alive(self) -> KeysView[int]:
        """The numbers of allocations that have not died."""
        return self._references.keys()

    def close(self) -> None:
        """Follow nothing any more: what dies later, such as the model, is no part of the recording."""
        self._references.clear()

    def enter(self, name: str, layer: int = -1) -> None:
        """Start a section."""
        self.section = (name, layer)
        self.owner = layer
        self._spreads = name in _ABOUT_ALL_LAYERS
        self.marks.append((len(self.events), self.section))

    @contextmanager
    def counting_as(self, kind: str) -> Iterator[None]:
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before

    def add(
        self, tensor: torch.Tensor, *, kind: str | None = None, owner: int | None = None, rows: int | None = None
    ) -> bool:
        """Count the storage of a tensor on the meta device; False when it is counted already."""
        if tensor.device.type != "meta":
            return False
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._numbers or storage.nbytes() == 0:
            return False
        number = len(self.births)
        self.births.append(
            Born(
                storage.nbytes(),
                self.kind if kind is None else kind,
                self.owner if owner is None else owner,
                count_rows(tensor) if rows is None else rows,
            )
        )
        self.events.append(number)
        self._numbers[key] = number
        self._references[number] = weakref.ref(storage, self._watch(key, number))
        return True

    def retag(self, tensor: torch.Tensor, kind: str, owner: int) -> None:
        """Say what a storage turned out to be: a gradient is made like any other tensor."""
        number = self._numbers.get(tensor.untyped_storage()._cdata)
        if number is not None:
            self.births[number] = self.births[number]._replace(kind=kind, owner=owner, rows=count_rows(tensor))

    def count_flops(self, amount: int) -> None:
        self.flops[self.section] = self.flops.get(self.section, 0) + amount

    def __enter__(self) -> "Tracker":
        self._token = _active.set(self)
        return super().__enter__()

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        _active.reset(self._token)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch's compiler is not at work here, and keeping it out would cost some microseconds an operation."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Without function modes: each look at a shape would pass through them, three for every operation."""
        with torch._C.DisableTorchFunction():
            return self._record(func, args, kwargs)

    def _record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        result = _replay.run(func, args, kwargs)
        counts = _FLOPS.get(func)
        if counts is not None:
            self.count_flops(counts(args, result))
        fresh = self._fresh.get(func)
        if fresh is None:
            fresh = self._fresh[func] = any(item.alias_info is None for item in func._schema.returns)
        if fresh:
            if self._spreads:
                self._add_by_input(args, result)
            else:
                self._add_all(result)
        return result

    def _add_by_input(self, args: tuple[Any, ...], result: Any) -> None:
        """Outputs belong to the layers of their inputs, one by one where both are lists; one of many is collective."""
        first = args[0] if args else None
        many = isinstance(first, list | tuple) and bool(first) and isinstance(first[0], torch.Tensor)
        if many and isinstance(result, list | tuple) and len(first) == len(result):
            for source, item in zip(first, result, strict=True):
                self.add(item, owner=self._owner_of(source))
        elif many and isinstance(result, torch.Tensor):
            number = len(self.births)
            self.add(result, owner=-1, rows=0)
            share = result.untyped_storage().nbytes() // len(first)
            self.collective[number] = Counter({})
            for source in first:
                self.collective[number][self._owner_of(source)] += share
        elif isinstance(result, torch.Tensor):
            sources = [item for item in args if isinstance(item, torch.Tensor)]
            self.add(result, owner=max(self.owner, *(self._owner_of(item) for item in sources), -1))
        else:
            self._add_all(result)

    def _owner_of(self, tensor: Any) -> int:
        if not isinstance(tensor, torch.Tensor):
            return -1
        number = self._numbers.get(tensor.untyped_storage()._cdata)
        return -1 if number is None else self.births[number].owner

    def _add_all(self, result: Any) -> None:
        if isinstance(result, torch.Tensor):
            self.add(result)
        elif isinstance(result, tuple | list):
            for item in result:
                self._add_all(item)

    def _watch(self, key: int, number: int) -> Callable[[Any], None]:
        def bury(_reference: Any) -> None:
            del self._numbers[key]
            del self._references[number]
            self.events.append(~number)

        return bury


_ABOUT_ALL_LAYERS = frozenset({"clip", "optimizer", "zero"})
"""Sections whose operations go over the parameters of all layers."""


def _mm_flops(args: tuple[Any, ...], _result: Any) -> int:
    return 2 * args[0].numel() * int(args[1].shape[-1])


def _addmm_flops(args: tuple[Any, ...], _result: Any) -> int:
    return 2 * args[1].numel() * int(args[2].shape[-1])


def _grouped_flops(args: tuple[Any, ...], _result: Any) -> int:
    """Rows [S, K] by groups [G, K, N]; for the weights' gradients [K, S] by [S, N]. Each row is in one group."""
    return 2 * args[0].numel() * int(args[1].shape[-1])


_ATEN = torch.ops.aten
_FLOPS: dict[Any, Callable[[tuple[Any, ...], Any], int]] = {
    _ATEN.mm.default: _mm_flops,
    _ATEN.bmm.default: _mm_flops,
    _ATEN.addmm.default: _addmm_flops,
    _ATEN.baddbmm.default: _addmm_flops,
    _ATEN._grouped_mm.default: _grouped_flops,
}
"""Two operations for a multiplication and its addition."""
