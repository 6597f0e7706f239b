"""Counting the storages of real tensors on a CPU, so that what the estimator predicts can be held against it."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.distributed.fsdp._fully_shard import _fsdp_param
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workers.estimator.depth import Recording


class StorageCount(TorchDispatchMode):
    """Bytes of the storages that operations make, alive now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self.born: list[int] = []
        """Sizes, in their order."""
        self._sizes: dict[int, int] = {}
        self._references: dict[int, Any] = {}

    def add(self, tensor: Any) -> None:
        """A storage that is new, or that has been given another size."""
        tensor = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._sizes:
            self._sizes[key] = 0
            self._references[key] = weakref.ref(storage, lambda _, key=key: self._bury(key))
            self.born.append(size)
        self.live_bytes += size - self._sizes[key]
        self._sizes[key] = size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for item in tree_leaves(result):
            if isinstance(item, torch.Tensor) and item.device.type == "cpu":
                self.add(item)
        return result

    def _bury(self, key: int) -> None:
        self.live_bytes -= self._sizes.pop(key)
        del self._references[key]


@contextmanager
def watching_fsdp(count: StorageCount) -> Iterator[None]:
    """FSDP gives storages back and takes them again without an operation that could be seen."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("alloc_storage", "free_storage"):
            patch.setattr(_fsdp_param, name, _counted(getattr(_fsdp_param, name), count))
        yield


def _counted(function: Any, count: StorageCount) -> Any:
    def call(tensor: torch.Tensor) -> None:
        function(tensor)
        count.add(tensor)

    return call


def find_peak(recording: Recording) -> int:
    """The most bytes alive at once in a prediction, as asked for."""
    live = most = 0
    for event in recording.events:
        live += recording.births[event].size_bytes if event >= 0 else -recording.births[~event].size_bytes
        most = max(most, live)
    return most
