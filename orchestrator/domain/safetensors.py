"""What a safetensors file holds, read from its header alone, with every bound checked. No weights are loaded.

The format (github.com/huggingface/safetensors, README): 8 bytes with the header's length, little endian; the header, a
JSON object of tensor name to dtype, shape and data_offsets; then the tensors' bytes, without holes or overlaps.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.strict_json import StrictJsonError, parse_json, show_name

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
MAX_SIZE = 2**63 - 1

DTYPE_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""As in safetensors 0.8, tensor.rs."""


class MalformedSafetensorsError(InvalidRequestError):
    """The file is not a safetensors file."""

    code = "bad_safetensors"


@dataclass(frozen=True)
class Tensor:
    """`begin` and `end` are byte positions after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class SafetensorsHeader:
    """`tensors` in the order of their bytes; `metadata` is the free text that the writer left."""

    tensors: tuple[Tensor, ...]
    metadata: dict[str, str]


def read_header_length(first: bytes, *, file_bytes: int) -> int:
    """The header's length in bytes, from the first eight bytes of a file of that size."""
    if len(first) < LENGTH_BYTES or file_bytes < LENGTH_BYTES:
        raise MalformedSafetensorsError("the file is shorter than the length of its header")
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise MalformedSafetensorsError(f"its header claims {length} bytes; at most {MAX_HEADER_BYTES} are allowed")
    if LENGTH_BYTES + length > file_bytes:
        raise MalformedSafetensorsError(f"its header claims {length} bytes, more than the file has")
    return length


def parse_header(raw: bytes, *, data_bytes: int) -> SafetensorsHeader:
    """Check a header against the number of bytes that follow it, and return what it describes."""
    if raw[:1] != b"{":
        raise MalformedSafetensorsError("its header is not a JSON object")
    try:
        header = parse_json(raw.decode())
    except UnicodeDecodeError:
        raise MalformedSafetensorsError("its header is not UTF-8") from None
    except StrictJsonError as error:
        raise MalformedSafetensorsError(f"its header is not JSON: {error.message}") from None
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise MalformedSafetensorsError("its __metadata__ is not an object of strings")
    tensors = sorted((_tensor(name, entry) for name, entry in header.items()), key=lambda t: (t.begin, t.end))
    at = 0
    for tensor in tensors:
        if tensor.begin != at:
            raise MalformedSafetensorsError(f"there is a hole or an overlap before tensor {show_name(tensor.name)}")
        at = tensor.end
    if at != data_bytes:
        raise MalformedSafetensorsError(f"its tensors take {at} bytes, and {data_bytes} follow the header")
    return SafetensorsHeader(tensors=tuple(tensors), metadata=metadata)


def _tensor(name: str, entry: Any) -> Tensor:
    shown = show_name(name)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise MalformedSafetensorsError(f"tensor {shown} lacks dtype, shape or data_offsets, or has more")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise MalformedSafetensorsError(f"tensor {shown} has an unknown dtype")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise MalformedSafetensorsError(f"tensor {shown} has a bad shape or bad data_offsets")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    begin, end = offsets
    if bits > MAX_SIZE or bits % 8 or end - begin != bits // 8:
        raise MalformedSafetensorsError(f"the bytes of tensor {shown} do not match its shape")
    return Tensor(name, dtype, tuple(shape), begin, end)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 64 and all(type(n) is int and 0 <= n <= MAX_SIZE for n in value)
