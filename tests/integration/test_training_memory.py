"""What a training process keeps in memory of its base model, and what it gives back."""

import ctypes
import gc
import resource
import shutil
from pathlib import Path

import pytest
import torch

from orchestrator.domain.protocol import DeviceGrant
from tests.support.training import make_plan
from workers import malloc
from workers.builders.model import add_adapter, load_base_model

MIB = 2**20
CPU = DeviceGrant(device_id="node/cpu:0", kind="cpu", index=0, device_bytes=2**33, reserved_bytes=2**32)
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.usefixtures("one_thread"),
]


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantized_model_leaves_its_file(tiny_model: Path, tmp_path: Path, quantization: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    model = load_base_model(folder, make_plan(quantization=quantization, compute_dtype="float32"), CPU)
    gc.collect()
    assert str(folder) not in Path("/proc/self/maps").read_text()
    assert sum(weight.numel() for weight in model.parameters()) > 0


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another malloc than glibc's")
def test_holes_that_loading_leaves_go_back() -> None:
    """100 MiB in blocks too small to be mapped alone, of which every other one stays."""
    malloc.trim_heap()  # of what other tests left
    before = resident_bytes()
    with malloc.heap_kept_small(CPU):
        blocks = [torch.ones(100 * 1024, dtype=torch.uint8) for _ in range(1024)]
        full = resident_bytes()
        del blocks[::2]
    assert full - before > 75 * MIB
    assert resident_bytes() - before < 65 * MIB
    assert len(blocks) == 512


@pytest.mark.parametrize(("kind", "trims"), [("cpu", 2), ("cuda", 0)])
def test_the_heap_is_trimmed_once_a_forward_pass(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, kind: str, trims: int
) -> None:
    plan = make_plan()
    model = add_adapter(load_base_model(tiny_model, plan, CPU), plan, folder=tiny_model, base_name="tiny")
    counted: list[None] = []
    monkeypatch.setattr(malloc, "trim_heap", lambda: counted.append(None))
    malloc.trim_after_layers(model, CPU.model_copy(update={"kind": kind}))
    for _ in range(2):
        model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert len(counted) == trims
