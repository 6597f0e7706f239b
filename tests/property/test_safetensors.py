"""Any bytes as a safetensors file: refused with a reason, or read exactly as the format's own library reads them."""

import json
import struct
from typing import Any

import numpy as np
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from orchestrator.domain.safetensors import MalformedSafetensorsError, SafetensorsHeader
from orchestrator.domain.safetensors_scan import SafetensorsScan

small = st.integers(-2, 40)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I8", "F4", "nope"]),
        "shape": st.lists(small, max_size=3),
        "data_offsets": st.lists(small, min_size=1, max_size=3),
    },
    optional={"more": st.none()},
)
headers = st.dictionaries(st.sampled_from(["a", "b", "c", "__metadata__"]), entries, max_size=3)


def _scan(data: bytes, chunk_bytes: int) -> SafetensorsHeader | None:
    scan = SafetensorsScan(len(data))
    try:
        for at in range(0, len(data), chunk_bytes):
            scan.feed(data[at : at + chunk_bytes])
        return scan.finish()
    except MalformedSafetensorsError:
        return None


def _check_against_the_library(data: bytes, chunk_bytes: int) -> None:
    header = _scan(data, chunk_bytes)
    assert header == _scan(data, max(1, len(data)))
    if header is not None:
        theirs = safetensors.deserialize(data)
        ours = {tensor.name: (tensor.dtype, list(tensor.shape), tensor.end - tensor.begin) for tensor in header.tensors}
        assert ours == {name: (v["dtype"], list(v["shape"]), len(v["data"])) for name, v in theirs}


@settings(deadline=None)
@given(headers, st.integers(0, 40), st.integers(1, 64))
def test_a_made_up_header_is_judged_as_the_library_does(header: dict[str, Any], data_bytes: int, chunk: int) -> None:
    raw = json.dumps(header).encode()
    _check_against_the_library(struct.pack("<Q", len(raw)) + raw + bytes(data_bytes), chunk)


@settings(deadline=None)
@given(st.data())
def test_a_damaged_file_is_judged_as_the_library_does(data: st.DataObject) -> None:
    content = bytearray(save({"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16)}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    _check_against_the_library(bytes(content[:cut] if data.draw(st.booleans()) else content), 16)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_break_it(data: bytes) -> None:
    _check_against_the_library(data, 7)
