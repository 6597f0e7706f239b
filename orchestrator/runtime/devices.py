"""Which devices does this machine offer to the pool, and how does a Ray node carry them?

A GPU with its memory; on a machine without one, the CPU with a share of RAM. Ray knows a device as a custom resource in
whole MiB, so its own accounting refuses to overcommit, and as labels of the node:

    resource  tunepool_device_<index>_mib      MiB that jobs may share
    label     tunepool.io/node                 the node's name, the same after every restart of Ray on this machine
    label     tunepool.io/device-<index>-kind  cuda or cpu
    label     tunepool.io/device-<index>-type  the name in the price book, such as nvidia-rtx-4090

`python -m orchestrator.runtime.devices` prints the arguments that `ray start` needs for this, as a JSON list; with
`--format text` for a shell: `python -m orchestrator.runtime.devices --format text | xargs ray start --address …`.
"""

import argparse
import importlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from orchestrator.domain.elastic import DeviceGroup
from orchestrator.runtime.launcher import DeclaredDevice

MIB = 1024**2
CPU_SHARE = 0.75
"""Of RAM, on a machine without a GPU: the rest is for the system, Ray and the control plane."""
GPU_SHARE = 0.97
"""Of a GPU's memory: the driver and other processes' contexts hold some hundred MiB of 24 GiB."""
LABEL_PREFIX = "tunepool.io/"
_KINDS: Mapping[str, Literal["cpu", "cuda"]] = {"cpu": "cpu", "cuda": "cuda"}
_RESOURCE = re.compile(r"tunepool_device_(\d+)_mib")
_LABEL_CHARACTERS = 63
_QUERY_SECONDS = 20


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """`index` is the driver's, in PCI order."""

    index: int
    product: str
    total_bytes: int


def detect_devices(
    *, node_name: str | None = None, cpu_memory_bytes: int | None = None, cpu_share: float = CPU_SHARE
) -> tuple[DeclaredDevice, ...]:
    """The devices of this machine: its GPUs, else its CPU with `cpu_memory_bytes` or, if that is None, the share."""
    node = to_label(node_name or socket.gethostname())
    gpus = detect_gpus()
    if not gpus:
        usable = cpu_memory_bytes if cpu_memory_bytes is not None else int(read_ram_bytes() * cpu_share)
        return (declare_device(node, kind="cpu", index=0, device_type="cpu", usable_bytes=usable),)
    return tuple(
        declare_device(
            node,
            kind="cuda",
            index=gpu.index,
            device_type=to_device_type(gpu.product),
            usable_bytes=int(gpu.total_bytes * GPU_SHARE),
        )
        for gpu in gpus
    )


def declare_device(
    node_name: str, *, kind: Literal["cpu", "cuda"], index: int, device_type: str, usable_bytes: int
) -> DeclaredDevice:
    """Whole MiB, because that is what Ray counts."""
    return DeclaredDevice(
        device_id=f"{node_name}/{kind}:{index}",
        node_name=node_name,
        device_type=device_type,
        kind=kind,
        index=index,
        total_bytes=usable_bytes // MIB * MIB,
    )


def ray_start_arguments(devices: Sequence[DeclaredDevice]) -> list[str]:
    """Arguments of `ray start` that declare the devices of one node. Ray's own GPU accounting is left out of it."""
    resources = {resource_name(device.index): device.total_bytes // MIB for device in devices}
    labels = {f"{LABEL_PREFIX}node": device.node_name for device in devices}
    for device in devices:
        labels[f"{LABEL_PREFIX}device-{device.index}-kind"] = device.kind
        labels[f"{LABEL_PREFIX}device-{device.index}-type"] = device.device_type
    pairs = ",".join(f"{name}={value}" for name, value in labels.items())
    return ["--num-gpus", "0", "--resources", json.dumps(resources), "--labels", pairs]


def decode_devices(resources: Mapping[str, float], labels: Mapping[str, str]) -> tuple[DeclaredDevice, ...]:
    """The devices that a node of the cluster declares; a device without its labels is not one of ours."""
    node_name = labels.get(f"{LABEL_PREFIX}node")
    found = []
    for name, mebibytes in resources.items():
        match = _RESOURCE.fullmatch(name)
        if match is None or not node_name:
            continue
        index = int(match.group(1))
        kind = _KINDS.get(labels.get(f"{LABEL_PREFIX}device-{index}-kind", ""))
        device_type = labels.get(f"{LABEL_PREFIX}device-{index}-type")
        if device_type and kind:
            usable = int(mebibytes) * MIB
            found.append(
                declare_device(node_name, kind=kind, index=index, device_type=device_type, usable_bytes=usable)
            )
    return tuple(sorted(found, key=lambda device: device.index))


def encode_group(group: DeviceGroup) -> tuple[dict[str, int], dict[str, str]]:
    """(resources, labels) that a node must have to offer these whole devices. Labels are heeded by Ray's autoscaler v2;
    v1 goes by resources alone."""
    sizes = group.bytes_by_index.items()
    resources = {resource_name(index): resource_amount(usable_bytes) for index, usable_bytes in sizes}
    return resources, {f"{LABEL_PREFIX}device-{index}-type": group.device_type for index, _ in sizes}


def resource_name(index: int) -> str:
    return f"tunepool_device_{index}_mib"


def resource_amount(reserved_bytes: int) -> int:
    """MiB that an attempt takes of its device's resource. Rounded down: rounded up, two attempts that share a device to
    the last byte would wait for each other for ever."""
    return max(1, reserved_bytes // MIB)


def to_label(text: str) -> str:
    """The nearest text that is a legal label: letters, digits, dash, dot and underscore, at most 63."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:_LABEL_CHARACTERS].strip("-._")
    return slug or "node"


def to_device_type(product: str) -> str:
    """'NVIDIA GeForce RTX 4090' becomes 'nvidia-rtx-4090'; 'Tesla T4' becomes 'nvidia-tesla-t4'."""
    slug = re.sub(r"[^a-z0-9]+", "-", product.lower().replace("geforce", "")).strip("-")
    return to_label(slug if slug.startswith("nvidia") else f"nvidia-{slug}").lower()


def detect_gpus() -> tuple[Gpu, ...]:
    """NVIDIA GPUs by the driver's library when its binding is installed, else by nvidia-smi, else none.

    Honours CUDA_VISIBLE_DEVICES when it lists numbers, so that a machine may keep a GPU to itself.
    """
    gpus = _gpus_by_library()
    if gpus is None:
        gpus = _gpus_by_command()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None or not re.fullmatch(r"[\d,\s]*", allowed):
        return gpus
    indices = {int(part) for part in allowed.split(",") if part.strip()}
    return tuple(gpu for gpu in gpus if gpu.index in indices)


def _gpus_by_library() -> tuple[Gpu, ...] | None:
    """By nvidia-ml-py; None when it is not installed or finds no driver."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        found = []
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = nvml.nvmlDeviceGetName(handle)
            product = name.decode() if isinstance(name, bytes) else str(name)
            total = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
            found.append(Gpu(index=index, product=product, total_bytes=total))
        return tuple(found)
    finally:
        nvml.nvmlShutdown()


def _gpus_by_command() -> tuple[Gpu, ...]:
    query = ["nvidia-smi", "--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return tuple(
        Gpu(index=int(index), product=product, total_bytes=int(mebibytes) * MIB)
        for index, product, mebibytes in rows
        if mebibytes.isdigit()
    )


def read_ram_bytes() -> int:
    """RAM of this machine, or of the control group (container) that this process lives in when that is less."""
    limits = [psutil.virtual_memory().total]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text()))
    return min(limits)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Print the arguments of `ray start` that declare this machine.")
    parser.add_argument("--node-name", help="the node's stable name (default: the host name)")
    parser.add_argument("--cpu-memory-gib", type=float, help="RAM that jobs may share on a machine without a GPU")
    parser.add_argument("--format", choices=("json", "text"), default="json")
    asked = parser.parse_args(argv)
    memory = None if asked.cpu_memory_gib is None else int(asked.cpu_memory_gib * 1024**3)
    arguments = ray_start_arguments(detect_devices(node_name=asked.node_name, cpu_memory_bytes=memory))
    sys.stdout.write((json.dumps(arguments) if asked.format == "json" else shlex.join(arguments)) + "\n")


if __name__ == "__main__":
    main()
