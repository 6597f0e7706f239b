"""What a training process keeps in memory of its base model."""

import gc
import shutil
from pathlib import Path

import pytest

from orchestrator.domain.protocol import DeviceGrant
from tests.support.training import make_plan
from workers.builders.model import load_base_model

CPU = DeviceGrant(device_id="node/cpu:0", kind="cpu", index=0, device_bytes=2**33, reserved_bytes=2**32)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantized_model_leaves_its_file(tiny_model: Path, tmp_path: Path, quantization: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    model = load_base_model(folder, make_plan(quantization=quantization, compute_dtype="float32"), CPU)
    gc.collect()
    assert str(folder) not in Path("/proc/self/maps").read_text()
    assert sum(weight.numel() for weight in model.parameters()) > 0
