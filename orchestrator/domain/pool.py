"""The pool as it is stored: devices, their prices, and base models."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from orchestrator.domain.models import ModelFacts, ModelFile, ModelSourceKind
from orchestrator.domain.speed import DeviceSpeed, find_speed


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device that a node declared. `usable_bytes` is what jobs may share; `seen_at`: the last survey with it."""

    device_id: str
    node_name: str
    device_type: str
    kind: Literal["cpu", "cuda"]
    index: int
    usable_bytes: int
    online: bool
    seen_at: datetime
    speed: DeviceSpeed | None = None
    """As it was measured; None until then, and on devices that are not measured."""


def speeds_of_types(devices: Iterable[Device]) -> dict[str, DeviceSpeed]:
    """By device type: measured on the slowest device of it, since any may be given to a job, else as catalogued."""
    found: dict[str, DeviceSpeed] = {}
    for device in devices:
        speed, known = device.speed, found.get(device.device_type)
        if speed is None:
            found.setdefault(device.device_type, find_speed(device.kind, device.device_type))
        elif known is None or not known.measured or speed.half_flops_per_second < known.half_flops_per_second:
            found[device.device_type] = speed
    return found


@dataclass(frozen=True, kw_only=True)
class Node:
    """What was said of a node: cordoned ones take nothing new, drained ones are also emptied. `automatic` is what the
    pool itself said, not an admin; `changed_at` is when it was said, None for long ago."""

    node_name: str
    cordoned_at: datetime | None
    drain_requested_at: datetime | None
    automatic: bool = False
    changed_at: datetime | None = None

    @property
    def is_resting(self) -> bool:
        """Cordoned by the pool itself because nothing ran there; it comes back when it is needed."""
        return self.automatic and self.cordoned_at is not None


@dataclass(frozen=True, kw_only=True)
class DeviceUse:
    """One attempt's hold on a device; `draining` when the attempt ended and its processes are not proved gone."""

    device_id: str
    attempt_id: str
    job_id: str
    team_id: str
    reserved_bytes: int
    peak_device_bytes: int
    draining: bool
    preempted_for: str | None = None
    """The job that the attempt made room for."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """The price book is append-only: the newest version of a device type holds for attempts that start after it."""

    device_type: str
    version: int
    usd_micros_per_hour: int
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A registered base model. `location` is a folder, an s3:// prefix or a hub id, as `source` says.

    `config` is its config.json without what names code or says nothing of its shape; None when it was not kept.
    """

    name: str
    source: ModelSourceKind
    location: str
    revision: str
    facts: ModelFacts
    files: tuple[ModelFile, ...]
    created_at: datetime
    config: Mapping[str, Any] | None = None
