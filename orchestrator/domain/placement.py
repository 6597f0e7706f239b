"""Which device would suit one job by itself, and whether any could: for estimates, before the queue has a say.

Devices, never sums: a job fits only where one device has all the bytes. Among devices: the smallest that suffices, then
the tightest hole, then the id. Who starts when, among all that wait, is decided by `domain.scheduling`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
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

    @property
    def shelf(self) -> tuple[str, str]:
        """Its node and type: a job that several devices train gets them from one. An id begins with its node's name."""
        return self.device_id.rpartition("/")[0], self.device_type


@dataclass(frozen=True, kw_only=True)
class WaitingJob:
    """`bytes_by_kind` is the footprint on each kind of device; a kind that is absent cannot hold the job. It needs
    `count` devices of one type and node, each with as many bytes."""

    job_id: str
    bytes_by_kind: dict[str, int]
    device_type: str | None
    exclusive: bool
    count: int = 1


def choose_device(devices: Iterable[DeviceRoom], job: WaitingJob) -> DeviceRoom | None:
    """The device on which the job should start now, or None; the first of several, if it needs them."""
    fitting = [device for device in devices if device.schedulable and fits(device, job, device.free_bytes)]
    candidates = find_together(fitting, job.count)
    return min(candidates, key=lambda d: (d.total_bytes, d.free_bytes, d.device_id), default=None)


def could_ever_fit(devices: Iterable[DeviceRoom], job: WaitingJob) -> bool:
    """Whether some device, empty, would hold the job; or as many as it needs."""
    return count_together(devices, job) >= job.count


def count_together(devices: Iterable[DeviceRoom], job: WaitingJob) -> int:
    """The most devices of one type and node that would each hold the job, empty."""
    shelves = Counter(device.shelf for device in devices if fits(device, job, device.total_bytes))
    return max(shelves.values(), default=0)


def find_together(devices: Iterable[DeviceRoom], count: int) -> list[DeviceRoom]:
    """Those of which there are at least `count` of one type on one node, as large or larger."""
    found = list(devices)
    return [
        device
        for device in found
        if sum(each.shelf == device.shelf and each.total_bytes >= device.total_bytes for each in found) >= count
    ]


def describe_too_few(count: int, together: int) -> str:
    """For a job of `count` devices that would fit as one of fewer."""
    return f"no node has {count} devices of one type that could hold it; the nearest is resources.count {together}"


def fits(device: DeviceRoom, job: WaitingJob, room_bytes: int) -> bool:
    """Whether `room_bytes` of this device would hold the job."""
    if job.device_type is not None and job.device_type != device.device_type:
        return False
    needed = job.bytes_by_kind.get(device.kind)
    if needed is None:
        return False
    return room_bytes == device.total_bytes and needed <= room_bytes if job.exclusive else needed <= room_bytes
