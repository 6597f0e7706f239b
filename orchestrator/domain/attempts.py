"""One execution of a job."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from orchestrator.domain.failures import FailureKind
from orchestrator.domain.pace import Pace
from orchestrator.domain.placement import DeviceKind
from orchestrator.domain.pricing import GangRate, Rate
from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.protocol import Succeeded
from orchestrator.domain.states import AttemptState


@dataclass(frozen=True, kw_only=True)
class HeldDevice:
    """One device of an attempt; `rate` has the bytes of it that are reserved, and what these cost."""

    device_id: str
    device_type: str
    rate: Rate


def rate_of(devices: Iterable[HeldDevice]) -> GangRate:
    """Of all of them together."""
    return GangRate(tuple(device.rate for device in devices))


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """`cursor` is the last journal entry that was taken over; `lease_token` fences every write.

    Billing runs from `started_at` (the launch) to `ended_at`; the rate is frozen at creation. The device stays
    occupied until `released_at`, which is set only on proof that the processes are gone. `result` is what the worker
    said when it succeeded: stored with the move to verifying, so that publishing can be done again after a crash.
    `rate_micros` is its share of the pool, in millionths of a reference device; `runs_as` the class that it counts for
    while it runs, None for its job's own. `preempt_rule` is set once the attempt
    must make room, for the job `preempted_for` (None: for nobody, its node is drained), by `grace_ends_at`.

    A job that several devices train holds them all or none: `device_id` and what goes with it are those of the first,
    `more_devices` the others, on the same node and of the same type; the peaks are the highest on any of them.
    """

    attempt_id: str
    job_id: str
    team_id: str
    number: int
    state: AttemptState
    phase: str | None
    device_id: str
    node_name: str
    device_type: str
    reserved_bytes: int
    rate: Rate
    lease_owner: str
    lease_token: str
    lease_generation: int
    lease_expires_at: datetime
    cursor: int
    resumed_from_step: int | None
    stop_reason: str | None
    stop_requested_at: datetime | None
    failure_kind: FailureKind | None
    failure_message: str | None
    created_at: datetime
    started_at: datetime | None
    last_contact_at: datetime | None
    ended_at: datetime | None
    released_at: datetime | None
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    peak_device_bytes: int
    result: Succeeded | None = None
    pace: Pace | None = None
    rate_micros: int = 0
    runs_as: PriorityClass | None = None
    preempt_rule: str | None = None
    preempted_for: str | None = None
    grace_ends_at: datetime | None = None
    more_devices: tuple[HeldDevice, ...] = ()

    @property
    def devices(self) -> tuple[HeldDevice, ...]:
        """All of them, in the order of the training processes' ranks."""
        first = HeldDevice(device_id=self.device_id, device_type=self.device_type, rate=self.rate)
        return (first, *self.more_devices)

    @property
    def whole_rate(self) -> GangRate:
        """Of all devices together."""
        return rate_of(self.devices)

    @property
    def device_kind(self) -> DeviceKind:
        """A device's id ends in its kind and index: node-a/cuda:0."""
        return "cpu" if self.device_id.rsplit("/", 1)[-1].startswith("cpu") else "cuda"


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """Append-only. `interval` numbers an attempt's entries: one for each of its devices, for each part of its time.
    `billed` is False for time lost to the platform: it is shown and charged to nobody. `device_id` is None in old
    entries, of attempts with one device."""

    attempt_id: str
    interval: int
    job_id: str
    team_id: str
    device_type: str
    started_at: datetime
    ended_at: datetime
    rate: Rate
    amount_usd_micros: int
    billed: bool
    created_at: datetime
    device_id: str | None = None
