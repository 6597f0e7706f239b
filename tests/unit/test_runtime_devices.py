"""Which devices a machine declares, and that a Ray node's resources and labels carry them back unchanged."""

import json
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.runtime.devices import (
    CPU_SHARE,
    GPU_SHARE,
    MIB,
    declare_device,
    decode_devices,
    detect_devices,
    detect_gpus,
    main,
    ray_start_arguments,
    read_ram_bytes,
    resource_amount,
    to_device_type,
    to_label,
)
from orchestrator.runtime.launcher import DeclaredDevice

GIB = 1024**3
SMI = """#!/bin/sh
echo "0, NVIDIA GeForce RTX 4090, 24564"
echo "1, NVIDIA A100-SXM4-80GB, 81920"
echo "2, NVIDIA GB10, [N/A]"
"""


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No driver library, and a PATH with nothing on it; returns the folder on the PATH."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


@pytest.fixture
def two_gpus(no_gpu: Path) -> None:
    smi = no_gpu / "nvidia-smi"
    smi.write_text(SMI)
    smi.chmod(0o755)


def decode(arguments: list[str]) -> tuple[DeclaredDevice, ...]:
    """As a node started with these arguments shows itself."""
    named = dict(zip(arguments[::2], arguments[1::2], strict=True))
    labels = dict(pair.split("=") for pair in named["--labels"].split(","))
    resources = {**json.loads(named["--resources"]), "CPU": 2.0, "memory": 1e10}
    return decode_devices(resources, {**labels, "ray.io/node-id": "abc"})


@pytest.mark.usefixtures("no_gpu")
def test_a_machine_without_a_gpu_offers_a_share_of_its_ram() -> None:
    (device,) = detect_devices()
    assert (device.kind, device.index, device.device_type) == ("cpu", 0, "cpu")
    assert device.node_name == to_label(socket.gethostname())
    assert device.device_id == f"{device.node_name}/cpu:0"
    assert device.total_bytes == int(read_ram_bytes() * CPU_SHARE) // MIB * MIB
    assert read_ram_bytes() <= psutil.virtual_memory().total


@pytest.mark.usefixtures("no_gpu")
def test_the_share_and_the_name_can_be_given() -> None:
    (device,) = detect_devices(node_name="my node!", cpu_memory_bytes=2 * GIB + 5)
    assert (device.node_name, device.total_bytes) == ("my-node", 2 * GIB)


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_offered_instead_of_the_cpu() -> None:
    devices = detect_devices(node_name="n")
    assert [d.device_id for d in devices] == ["n/cuda:0", "n/cuda:1"]
    assert [d.device_type for d in devices] == ["nvidia-rtx-4090", "nvidia-a100-sxm4-80gb"]
    assert devices[0].total_bytes == int(24564 * MIB * GPU_SHARE) // MIB * MIB


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_hidden_from_cuda_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    for visible, indices in (("1", [1]), ("", []), ("GPU-8f3a", [0, 1]), ("0,1", [0, 1])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [gpu.index for gpu in detect_gpus()] == indices, visible


def test_the_drivers_library_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml: Any = SimpleNamespace(
        NVMLError=RuntimeError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: b"Tesla T4",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=15 * GIB),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    (gpu,) = detect_gpus()
    assert (gpu.index, gpu.product, gpu.total_bytes) == (0, "Tesla T4", 15 * GIB)


@pytest.mark.parametrize(
    ("product", "device_type"),
    [
        ("NVIDIA GeForce RTX 4090", "nvidia-rtx-4090"),
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
        ("Tesla T4", "nvidia-tesla-t4"),
        ("NVIDIA RTX 6000 Ada Generation", "nvidia-rtx-6000-ada-generation"),
    ],
)
def test_device_types_are_slugs_of_the_product(product: str, device_type: str) -> None:
    assert to_device_type(product) == device_type


@pytest.mark.usefixtures("two_gpus")
def test_a_node_carries_its_devices_back_unchanged() -> None:
    devices = detect_devices(node_name="gpu-box.example")
    assert decode(ray_start_arguments(devices)) == devices


@given(st.text(max_size=80))
def test_any_host_name_becomes_a_legal_label(name: str) -> None:
    devices = (declare_device(to_label(name), kind="cpu", index=0, device_type="cpu", usable_bytes=GIB),)
    assert decode(ray_start_arguments(devices)) == devices
    assert 0 < len(to_label(name)) <= 63


def test_a_node_without_our_labels_offers_nothing() -> None:
    assert decode_devices({"tunepool_device_0_mib": 100.0}, {}) == ()
    assert decode_devices({"tunepool_device_0_mib": 100.0}, {"tunepool.io/node": "n"}) == ()
    assert decode_devices({"CPU": 2.0, "GPU": 1.0}, {"tunepool.io/node": "n"}) == ()


@given(st.integers(MIB, 100 * GIB), st.data())
def test_what_fits_on_a_device_in_bytes_fits_in_rays_accounting(total: int, data: st.DataObject) -> None:
    device = declare_device("n", kind="cpu", index=0, device_type="cpu", usable_bytes=total)
    first = data.draw(st.integers(MIB, device.total_bytes))
    rest = device.total_bytes - first
    amounts = [resource_amount(first)] + ([resource_amount(rest)] if rest >= MIB else [])
    assert sum(amounts) <= device.total_bytes // MIB


@pytest.mark.usefixtures("no_gpu")
def test_the_command_prints_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--node-name", "n", "--cpu-memory-gib", "1.5"])
    (device,) = decode(json.loads(capsys.readouterr().out))
    assert (device.node_name, device.total_bytes) == ("n", 3 * GIB // 2)
    main(["--node-name", "n", "--cpu-memory-gib", "1.5", "--format", "text"])
    assert "--resources '{\"tunepool_device_0_mib\": 1536}'" in capsys.readouterr().out
