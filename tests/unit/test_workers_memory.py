"""What a worker says of its memory when it ran out of it, in the words of each allocator."""

import pytest

from orchestrator.domain.protocol import DeviceGrant, Peak
from workers.memory import explain_shortage, read_peak

GIB = 2**30
CPU = DeviceGrant(device_id="node/cpu:0", kind="cpu", index=0, device_bytes=8 * GIB, reserved_bytes=GIB // 2)
CUDA = CPU.model_copy(update={"kind": "cuda", "reserved_bytes": 2 * GIB})
PEAK = Peak(allocated_bytes=GIB, reserved_bytes=3 * GIB // 2, device_bytes=2 * GIB)


@pytest.mark.parametrize(
    ("grant", "detail", "message"),
    [
        (
            CPU,
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 402653184 bytes. Error code 12",
            "The training ran out of memory when it asked for 384 MiB more: its peak was 2.00 GiB, and 512 MiB are "
            "reserved.",
        ),
        (
            CUDA,
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 24",
            "The training ran out of memory when it asked for 2.50 GiB more: its peak was 1.50 GiB, and 2.00 GiB are "
            "reserved.",
        ),
        (CPU, "MemoryError", "The training ran out of memory: its peak was 2.00 GiB, and 512 MiB are reserved."),
    ],
)
def test_the_message_has_the_peak_and_what_was_refused(grant: DeviceGrant, detail: str, message: str) -> None:
    assert explain_shortage(grant, PEAK, detail) == message


def test_the_peak_on_a_cpu_is_that_of_the_whole_process() -> None:
    assert read_peak(CPU).device_bytes > 2**20
