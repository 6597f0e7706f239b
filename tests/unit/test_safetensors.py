"""Headers with every bound broken once, and values that are not finite; the format's own library is the judge."""

import json
import struct
from typing import Any

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save

from orchestrator.domain.safetensors import (
    MAX_HEADER_BYTES,
    MalformedSafetensorsError,
    SafetensorsHeader,
    parse_header,
    read_header_length,
)
from orchestrator.domain.safetensors_scan import EXPONENTS, SafetensorsScan, count_non_finite

GOOD = {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}


def _file(header: Any, data: bytes = bytes(16)) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def _scan(data: bytes, *, chunk_bytes: int = 1000, size: int | None = None) -> SafetensorsHeader:
    scan = SafetensorsScan(len(data) if size is None else size)
    for at in range(0, len(data), chunk_bytes):
        scan.feed(data[at : at + chunk_bytes])
    return scan.finish()


def test_what_the_library_writes_is_read_the_same() -> None:
    arrays = {"b.weight": np.ones((3, 5), np.float32), "a": np.zeros((2, 0), np.float16), "c": np.array(1.0)}
    header = _scan(save(arrays, metadata={"format": "pt"}))
    assert {(t.name, t.shape) for t in header.tensors} == {("b.weight", (3, 5)), ("a", (2, 0)), ("c", ())}
    assert header.metadata == {"format": "pt"}
    assert sum(tensor.parameters for tensor in header.tensors) == 16


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b" {}", "not a JSON object"),
        (b"{", "not JSON"),
        (b"{\xff}", "not UTF-8"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a":' * 99 + b"1" + b"}" * 99, "not JSON"),
        (b'{"a": 1, "a": 1}', "in one object twice"),
        ({}, "tensors take 0 bytes, and 16 follow"),
        ({**GOOD, "__metadata__": {"a": 1}}, "__metadata__"),
        ({**GOOD, "__metadata__": "x"}, "__metadata__"),
        ({"a": 7}, "lacks"),
        ({"a": {"dtype": "F32", "shape": [4]}}, "lacks"),
        ({"a": {**GOOD["a"], "extra": 1}}, "or has more"),
        ({"a": {**GOOD["a"], "dtype": "F31"}}, "unknown dtype"),
        ({"a": {**GOOD["a"], "dtype": ["F32"]}}, "unknown dtype"),
        ({"a": {**GOOD["a"], "shape": 4}}, "bad shape"),
        ({"a": {**GOOD["a"], "shape": [-2, -2]}}, "bad shape"),
        ({"a": {**GOOD["a"], "shape": [2.0, 2]}}, "bad shape"),
        ({"a": {**GOOD["a"], "shape": [True, 4]}}, "bad shape"),
        ({"a": {**GOOD["a"], "shape": [1] * 65}}, "bad shape"),
        ({"a": {**GOOD["a"], "data_offsets": [0, 16, 16]}}, "bad shape"),
        ({"a": {**GOOD["a"], "data_offsets": [16, 0]}}, "do not match"),
        ({"a": {**GOOD["a"], "data_offsets": [0, 12]}}, "do not match"),
        ({"a": {**GOOD["a"], "shape": [2**62, 2**62]}}, "do not match"),
        ({"a": {**GOOD["a"], "shape": [2**63, 0]}}, "bad shape"),
        ({"a": {"dtype": "F4", "shape": [33], "data_offsets": [0, 16]}}, "do not match"),
        ({"a": {**GOOD["a"], "data_offsets": [4, 20]}}, "hole or an overlap"),
        ({**GOOD, "b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}}, "hole or an overlap"),
        ({**GOOD, "b": {"dtype": "F32", "shape": [1], "data_offsets": [16, 20]}}, "20 bytes, and 16 follow"),
        ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}, "12 bytes, and 16 follow"),
    ],
)
def test_each_broken_bound_is_refused(header: Any, reason: str) -> None:
    with pytest.raises(MalformedSafetensorsError, match=reason) as caught:
        _scan(_file(header))
    assert caught.value.code == "bad_safetensors"
    if reason not in {"lacks", "or has more"}:  # the library passes over unknown keys
        with pytest.raises(safetensors.SafetensorError):
            safetensors.deserialize(_file(header))


def test_the_length_of_the_header_is_bounded() -> None:
    for first, size in ((b"\x02" + bytes(6), 7), (struct.pack("<Q", 3), 10), (struct.pack("<Q", 2**63), 2**64)):
        with pytest.raises(MalformedSafetensorsError):
            read_header_length(first, file_bytes=size)
    assert read_header_length(struct.pack("<Q", 2), file_bytes=10) == 2
    with pytest.raises(MalformedSafetensorsError, match="at most"):
        read_header_length(struct.pack("<Q", MAX_HEADER_BYTES + 1), file_bytes=2**40)


def test_the_header_alone_is_enough_for_the_facts() -> None:
    (tensor,) = parse_header(json.dumps(GOOD).encode(), data_bytes=16).tensors
    assert (tensor.dtype, tensor.shape, tensor.begin, tensor.end) == ("F32", (2, 2), 0, 16)


def test_a_file_of_another_length_is_refused() -> None:
    data = _file(GOOD)
    assert _scan(data)
    for size in (len(data) - 1, len(data) + 1):
        with pytest.raises(MalformedSafetensorsError):
            _scan(data, size=size)
    for cut in (0, 4, 12, len(data) - 1):
        with pytest.raises(MalformedSafetensorsError):
            _scan(data[:cut], size=len(data))
        with pytest.raises(MalformedSafetensorsError):
            _scan(data[:cut])


BITS = {
    "F16": [0x7C00, 0xFC00, 0x7E00, 0x7C01],
    "BF16": [0x7F80, 0xFF80, 0x7FC0, 0x7F81],
    "F32": [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001],
    "F64": [0x7FF0000000000000, 0xFFF0000000000000, 0x7FF8000000000000, 0x7FF0000000000001],
}


@pytest.mark.parametrize("chunk_bytes", [1, 3, 8, 17, 4096])
@pytest.mark.parametrize("dtype", sorted(EXPONENTS))
def test_one_value_that_is_not_finite_is_found_anywhere(dtype: str, chunk_bytes: int) -> None:
    word, mask = EXPONENTS[dtype]
    largest = mask - 1 if dtype == "BF16" else mask - (mask & -mask) | ((mask & -mask) - 1)
    values = np.full(40, largest, dtype=word)
    width = values.itemsize
    header = {
        "a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]},
        "b": {"dtype": dtype, "shape": [40], "data_offsets": [2, 2 + 40 * width]},
    }
    assert _scan(_file(header, bytes(2) + values.tobytes()), chunk_bytes=chunk_bytes)
    for bits in BITS[dtype]:
        for place in (0, 17, 39):
            bad = values.copy()
            bad[place] = bits
            with pytest.raises(MalformedSafetensorsError, match='tensor "b" holds 1 values') as caught:
                _scan(_file(header, bytes(2) + bad.tobytes()), chunk_bytes=chunk_bytes)
            assert caught.value.code == "not_finite"
    assert count_non_finite(dtype, np.array(BITS[dtype], dtype=word).tobytes()) == 4


def test_whole_numbers_cannot_hide_in_an_adapter() -> None:
    header = {"a": {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]}}
    with pytest.raises(MalformedSafetensorsError, match="has dtype I64"):
        _scan(_file(header))


def test_a_check_sees_the_header_before_the_values() -> None:
    seen: list[SafetensorsHeader] = []
    data = _file(GOOD)
    scan = SafetensorsScan(len(data), seen.append)
    scan.feed(data[:-16])
    assert [tensor.name for tensor in seen[0].tensors] == ["a"]
