"""How much memory may the attempt use, and how much did it use? CUDA parts are a few lines, apart from the rest."""

import os
import re
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from orchestrator.domain.protocol import DeviceGrant, Peak

MIB = 2**20
FENCE_BYTES = 128 * MIB
"""How far a process on a CPU may go beyond its reservation before it is ended: malloc's heap is never quite the same
twice, and between two looks it grows on."""
LOOK_SECONDS = 0.05
"""Between two looks at the peak, which take 8 microseconds each. A page of 4 KiB is handed out in 3 microseconds (first
writes to 64 MiB, busy machine, 25 November 2026), so a process gets some 65 MiB a core further before it is ended."""
STATUS_BYTES = 4096
"""More than proc(5)'s status file has."""
BACKSTOP_FACTOR = 2
"""RLIMIT_DATA counts private address space, touched or not, as much again as what is resident: a process may have twice
what its reservation leaves it. It stops whoever asks for more than that at once."""
NEAR_BYTES = 64 * MIB
"""Half of the headroom: whoever is refused this close to the limit wanted memory."""
STACKS_PER_CORE = 2
"""Stacks are counted in full when a thread starts: OpenMP's and the backward pass's, and some of our own."""
SPARE_STACKS = 4
DEFAULT_STACK_BYTES = 8 * MIB
_ASKED = re.compile(r"tried to allocate ([\d.]+) ?([KMG]i?B|bytes)", re.IGNORECASE)
_UNITS = {"b": 1, "k": 2**10, "m": MIB, "g": 2**30}


def set_fence(grant: DeviceGrant, on_passed: Callable[[], None]) -> None:
    """Keep a whole process within the reserved share: out of memory here instead of in a neighbour.

    On CUDA the allocator refuses more. On a CPU a thread looks at the peak of the resident set and calls `on_passed`,
    which must end the process, when it is beyond the fence, however short that was; behind it stands `set_backstop`.
    """
    if grant.kind == "cuda":
        torch.cuda.set_per_process_memory_fraction(min(1.0, grant.reserved_bytes / grant.device_bytes))
        return
    set_backstop(grant)
    threading.Thread(target=_watch, args=(grant, on_passed), name="fence", daemon=True).start()


def _watch(grant: DeviceGrant, on_passed: Callable[[], None]) -> None:
    with open("/proc/self/status", "rb", buffering=0) as status:
        while _find_bytes(os.pread(status.fileno(), STATUS_BYTES, 0), "VmHWM") <= grant.reserved_bytes + FENCE_BYTES:
            time.sleep(LOOK_SECONDS)
    on_passed()


def set_backstop(grant: DeviceGrant) -> None:
    """Let the kernel refuse what goes far beyond the reservation on a CPU, by RLIMIT_DATA: private memory that can be
    written, whether or not it was touched (setrlimit(2), Linux 4.7 and later).

    What a process has of that before it trains, a GiB of libraries that nobody touches, is no part of what is
    reserved: the limit is set by how much more may come.
    """
    room = BACKSTOP_FACTOR * max(0, grant.reserved_bytes - _status_bytes("VmRSS")) + headroom_bytes()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _status_bytes("VmData") + room
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def lift_backstop(grant: DeviceGrant) -> None:
    """Let a process that failed say so, which takes some memory too."""
    if grant.kind == "cpu":
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def is_backstop_near() -> bool:
    """Whether a process on a CPU has used up most of what its backstop leaves: if something was refused, that is
    why."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return limit != resource.RLIM_INFINITY and limit - _status_bytes("VmData") < max(2 * _stack_bytes(), NEAR_BYTES)


def headroom_bytes() -> int:
    """Address space that every process gets beyond what its reservation is good for: its fence's, and stacks."""
    return FENCE_BYTES + (STACKS_PER_CORE * torch.get_num_threads() + SPARE_STACKS) * _stack_bytes()


def _stack_bytes() -> int:
    """Of a new thread."""
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    return DEFAULT_STACK_BYTES if stack == resource.RLIM_INFINITY else stack


def explain_shortage(grant: DeviceGrant, peak: Peak, detail: str) -> str:
    """One sentence with the peak, the reservation, and what was refused, if the traceback `detail` tells."""
    used = peak.device_bytes if grant.kind == "cpu" else peak.reserved_bytes
    found = _ASKED.search(detail)
    asked = f" when it asked for {_mib(float(found[1]) * _UNITS[found[2][0].lower()])} more" if found else ""
    reserved = _mib(grant.reserved_bytes)
    return f"The training ran out of memory{asked}: its peak was {_mib(used)}, and {reserved} are reserved."


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.2f} GiB" if size_bytes >= 2**30 else f"{size_bytes / MIB:.0f} MiB"


def read_peak(grant: DeviceGrant) -> Peak:
    """The highest use so far, in bytes.

    CPU: the process's peak resident set; torch keeps no count of its own there, so the other two are 0. CUDA: the
    allocator's two counts, and what the driver says is in use on the whole device, by whomever.
    """
    if grant.kind == "cuda":
        free_bytes, total_bytes = torch.cuda.mem_get_info()
        return Peak(
            allocated_bytes=torch.cuda.max_memory_allocated(),
            reserved_bytes=torch.cuda.max_memory_reserved(),
            device_bytes=total_bytes - free_bytes,
        )
    return Peak(allocated_bytes=0, reserved_bytes=0, device_bytes=_status_bytes("VmHWM"))


def _status_bytes(name: str) -> int:
    """A figure of proc(5)'s status file. The peak is VmHWM, not getrusage's ru_maxrss: that one survives exec, so it
    shows the parent's."""
    return _find_bytes(Path("/proc/self/status").read_bytes(), name)


def _find_bytes(status: bytes, name: str) -> int:
    """Without splitting lines: the fence asks twenty times a second. Figures are in KiB there."""
    title = f"\n{name}:".encode()
    start = status.index(title) + len(title)
    return int(status[start : status.index(b"kB", start)]) * 1024
