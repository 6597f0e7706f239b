"""Checks a whole safetensors file while it streams past: the header's bounds, then every value for NaN and infinity."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from orchestrator.domain.safetensors import (
    LENGTH_BYTES,
    MalformedSafetensorsError,
    SafetensorsHeader,
    Tensor,
    parse_header,
    read_header_length,
)
from orchestrator.domain.strict_json import show_name

Words = npt.NDArray[np.unsignedinteger]

EXPONENTS: Mapping[str, tuple[str, int]] = {
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F32": ("<u4", 0x7F80_0000),
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
}
"""The exponent's bits (IEEE 754, section 3.4; bfloat16 has float32's). All set means NaN or infinity."""


def count_non_finite(dtype: str, data: bytes | memoryview) -> int:
    """How many values are NaN or infinite; `data` holds whole values of a dtype in EXPONENTS."""
    word, mask = EXPONENTS[dtype]
    words: Words = np.frombuffer(data, dtype=word)
    exponent = words.dtype.type(mask)
    return int(np.count_nonzero((words & exponent) == exponent))


class SafetensorsScan:
    """Feed it the file's bytes in order, then `finish`. Holds the header and one value at most.

    `check` is called with the header as soon as it is known, so that a bad file is refused early.
    Raises MalformedSafetensorsError from either.
    """

    def __init__(self, file_bytes: int, check: Callable[[SafetensorsHeader], None] = lambda header: None) -> None:
        self._file_bytes = file_bytes
        self._check = check
        self._pending = bytearray()
        self._header_bytes: int | None = None
        self._header: SafetensorsHeader | None = None
        self._left: list[Tensor] = []
        """Tensors that are not fully seen, the next one last."""
        self._data_at = 0
        self._seen_bytes = 0

    def feed(self, chunk: bytes) -> None:
        self._seen_bytes += len(chunk)
        if self._seen_bytes > self._file_bytes:
            raise MalformedSafetensorsError("the file is longer than it was said to be")
        self._pending += chunk
        if self._header is None and not self._take_header():
            return
        self._take_values()

    def finish(self) -> SafetensorsHeader:
        if self._seen_bytes != self._file_bytes:
            raise MalformedSafetensorsError("the file is shorter than it was said to be")
        if self._header is None:
            raise MalformedSafetensorsError("the file is shorter than the length of its header")
        return self._header

    def _take_header(self) -> bool:
        """Parse the header once its bytes are there."""
        if self._header_bytes is None:
            if len(self._pending) < LENGTH_BYTES:
                return False
            self._header_bytes = read_header_length(bytes(self._pending[:LENGTH_BYTES]), file_bytes=self._file_bytes)
        end = LENGTH_BYTES + self._header_bytes
        if len(self._pending) < end:
            return False
        self._header = parse_header(bytes(self._pending[LENGTH_BYTES:end]), data_bytes=self._file_bytes - end)
        del self._pending[:end]
        unknown = next((tensor for tensor in self._header.tensors if tensor.dtype not in EXPONENTS), None)
        if unknown is not None:
            raise MalformedSafetensorsError(f"tensor {show_name(unknown.name)} has dtype {unknown.dtype}")
        self._check(self._header)
        self._left = list(reversed(self._header.tensors))
        return True

    def _take_values(self) -> None:
        """Check the whole values in the buffer and keep the rest of a value that is cut."""
        used = 0
        while self._left:
            tensor = self._left[-1]
            width = np.dtype(EXPONENTS[tensor.dtype][0]).itemsize
            here = min(tensor.end - self._data_at, len(self._pending) - used)
            here -= here % width
            if here and (count := count_non_finite(tensor.dtype, bytes(self._pending[used : used + here]))):
                raise MalformedSafetensorsError(
                    f"tensor {show_name(tensor.name)} holds {count} values that are not finite", code="not_finite"
                )
            used += here
            self._data_at += here
            if self._data_at < tensor.end:
                break
            self._left.pop()
        del self._pending[:used]
