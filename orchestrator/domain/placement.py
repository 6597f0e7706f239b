"""Which waiting job goes on which device. Pure and deterministic to the last tie.

Devices, never sums: a job fits only where one device has all the bytes. The oldest job that fits goes first; one that
does not fit lets younger ones pass. Among devices: the smallest that suffices, then the tightest hole, then the id.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

DeviceKind = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class DeviceRoom:
    """A device as placement sees it. `free_bytes` already excludes attempts whose end is not proved."""

    device_id: str
    device_type: str
    kind: DeviceKind
    total_bytes: int
    free_bytes: int
    schedulable: bool


@dataclass(frozen=True, kw_only=True)
class WaitingJob:
    """`bytes_by_kind` is the footprint on each kind of device; a kind that is absent cannot hold the job."""

    job_id: str
    priority: int
    queued_at: datetime
    bytes_by_kind: dict[str, int]
    device_type: str | None
    exclusive: bool


@dataclass(frozen=True, kw_only=True)
class Placement:
    job_id: str
    device_id: str
    reserved_bytes: int


def choose_placements(devices: Iterable[DeviceRoom], jobs: Sequence[WaitingJob]) -> list[Placement]:
    """Place as many of `jobs` as fit now, in order of priority and age."""
    rooms = {device.device_id: device for device in devices}
    placements: list[Placement] = []
    for job in sorted(jobs, key=lambda job: (-job.priority, job.queued_at, job.job_id)):
        room = choose_device(rooms.values(), job)
        if room is None:
            continue
        reserved = room.total_bytes if job.exclusive else job.bytes_by_kind[room.kind]
        rooms[room.device_id] = replace(room, free_bytes=room.free_bytes - reserved)
        placements.append(Placement(job_id=job.job_id, device_id=room.device_id, reserved_bytes=reserved))
    return placements


def choose_device(devices: Iterable[DeviceRoom], job: WaitingJob) -> DeviceRoom | None:
    """The device on which the job should start now, or None."""
    candidates = [device for device in devices if device.schedulable and fits(device, job, device.free_bytes)]
    return min(candidates, key=lambda d: (d.total_bytes, d.free_bytes, d.device_id), default=None)


def could_ever_fit(devices: Iterable[DeviceRoom], job: WaitingJob) -> bool:
    """Whether some device, empty, would hold the job."""
    return any(fits(device, job, device.total_bytes) for device in devices)


def fits(device: DeviceRoom, job: WaitingJob, room_bytes: int) -> bool:
    """Whether `room_bytes` of this device would hold the job."""
    if job.device_type is not None and job.device_type != device.device_type:
        return False
    needed = job.bytes_by_kind.get(device.kind)
    if needed is None:
        return False
    return room_bytes == device.total_bytes and needed <= room_bytes if job.exclusive else needed <= room_bytes
