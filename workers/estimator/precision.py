"""Autocast for the meta device, which has none: the same casts, made visible to autograd and to the tracker.

Which functions run in which dtype is torch's own table for CUDA ("Automatic Mixed Precision package", CUDA op
reference, torch 2.13). Casts of trainable float32 leaves are cached until the forward ends, as autocast does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

TO_LOWER: frozenset[Any] = frozenset(
    {
        functional.linear,
        torch.matmul,
        torch.Tensor.matmul,
        torch.Tensor.__matmul__,
        torch.Tensor.__rmatmul__,
        torch.mm,
        torch.Tensor.mm,
        torch.bmm,
        torch.Tensor.bmm,
        torch.addmm,
        torch.Tensor.addmm,
        torch.baddbmm,
        torch.Tensor.baddbmm,
        torch.einsum,
        functional.conv1d,
        torch.conv1d,
    }
)
_FLOAT32: frozenset[Any] = frozenset(
    {
        functional.layer_norm,
        torch.layer_norm,
        functional.softmax,
        torch.softmax,
        torch.Tensor.softmax,
        functional.log_softmax,
        torch.log_softmax,
        torch.Tensor.log_softmax,
        functional.cross_entropy,
        functional.nll_loss,
        functional.softplus,
        torch.pow,
        torch.Tensor.pow,
        torch.Tensor.__pow__,
        torch.rsqrt,
        torch.Tensor.rsqrt,
        torch.exp,
        torch.Tensor.exp,
        torch.log,
        torch.Tensor.log,
        torch.sum,
        torch.Tensor.sum,
        torch.cumsum,
        torch.Tensor.cumsum,
        torch.norm,
        torch.Tensor.norm,
        torch.linalg.norm,
        torch.linalg.vector_norm,
    }
)
_WIDE = frozenset({torch.bfloat16, torch.float16, torch.float32})

Replacement = Callable[..., Any]


class Precision(TorchFunctionMode):
    """Casts as autocast would when `lower` is given, and puts `replacements` in the place of functions."""

    def __init__(
        self,
        lower: torch.dtype | None,
        replacements: dict[Any, Replacement],
        *,
        to_lower: frozenset[Any] = TO_LOWER,
        to_float32: frozenset[Any] = _FLOAT32,
    ) -> None:
        super().__init__()
        self.lower = lower
        self._to_lower, self._to_float32 = to_lower, to_float32
        self._replacements = replacements
        self._cache: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def forget(self) -> None:
        """What leaving the outermost autocast context does: drop the cached casts."""
        self._cache.clear()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        replacement = self._replacements.get(func)
        if replacement is not None:
            return replacement(*args, **kwargs)
        if self.lower is not None:
            if func in self._to_lower:
                args, kwargs = self._cast_all(args, kwargs, self.lower)
            elif func in self._to_float32:
                args, kwargs = self._cast_all(args, kwargs, torch.float32)
        return func(*args, **kwargs)

    def _cast_all(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], dtype: torch.dtype
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(self._cast(arg, dtype) for arg in args), {k: self._cast(v, dtype) for k, v in kwargs.items()}

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if not isinstance(value, torch.Tensor) or value.dtype == dtype or value.dtype not in _WIDE:
            return value
        if dtype == torch.float32 or not (value.is_leaf and value.requires_grad and value.dtype == torch.float32):
            return value.to(dtype)
        cached = self._cache.get(id(value))
        if cached is None:
            cached = self._cache[id(value)] = (value, value.to(dtype))
        return cached[1]


class _MetaAutocast:
    """torch.autocast for the device that has none: leaving autocast works, and nothing else is asked of it."""

    def __init__(self, precision: Precision, *, enabled: bool) -> None:
        self._precision, self._enabled = precision, enabled

    def __enter__(self) -> None:
        self._before = self._precision.lower, torch.is_autocast_enabled("cuda")
        if not self._enabled:
            self._precision.lower = None
            torch.set_autocast_enabled("cuda", False)

    def __exit__(self, *_details: Any) -> None:
        self._precision.lower = self._before[0]
        torch.set_autocast_enabled("cuda", self._before[1])


@contextmanager
def emulated_autocast(precision: Precision, *, device: str = "cuda") -> Iterator[None]:
    """Let libraries that ask whether autocast is on, or that leave it, find what they would find on a GPU.

    Those that ask without naming a device, as PEFT's 4-bit layers do, are told about CUDA: so on a CPU, that it is off.
    """
    flag, real = torch.is_autocast_enabled("cuda"), torch.autocast

    def autocast(device_type: str, *args: Any, enabled: bool = True, **kwargs: Any) -> Any:
        if device_type == "meta":
            return _MetaAutocast(precision, enabled=enabled)
        return real(device_type, *args, enabled=enabled, **kwargs)

    torch.set_autocast_enabled("cuda", device == "cuda" and precision.lower is not None)
    torch.autocast = autocast
    try:
        yield
    finally:
        torch.autocast = real
        torch.set_autocast_enabled("cuda", flag)
