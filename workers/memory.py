"""How much memory may the attempt use, and how much did it use? CUDA parts are a few lines, apart from the rest."""

from pathlib import Path

import torch

from orchestrator.domain.protocol import DeviceGrant, Peak


def set_fence(grant: DeviceGrant) -> None:
    """On CUDA, refuse allocations beyond the reserved share: an out-of-memory error here instead of in a neighbour.

    A CPU has no such fence; `read_peak` shows what was used, and the recipe logs when it is more than was reserved.
    """
    if grant.kind == "cuda":
        torch.cuda.set_per_process_memory_fraction(min(1.0, grant.reserved_bytes / grant.device_bytes), 0)


def read_peak(grant: DeviceGrant) -> Peak:
    """The highest use so far, in bytes.

    CPU: the process's peak resident set; torch keeps no count of its own there, so the other two are 0. CUDA: the
    allocator's two counts, and what the driver says is in use on the whole device, by whomever.
    """
    if grant.kind == "cuda":
        free_bytes, total_bytes = torch.cuda.mem_get_info(0)
        return Peak(
            allocated_bytes=torch.cuda.max_memory_allocated(0),
            reserved_bytes=torch.cuda.max_memory_reserved(0),
            device_bytes=total_bytes - free_bytes,
        )
    return Peak(allocated_bytes=0, reserved_bytes=0, device_bytes=_peak_resident_bytes())


def _peak_resident_bytes() -> int:
    """VmHWM of proc(5), in KiB there. Not getrusage's ru_maxrss: that one survives exec, so it shows the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
