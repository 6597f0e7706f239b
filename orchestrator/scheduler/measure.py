"""How fast the pool's CPUs are, measured once on each while nothing runs there.

Invariants: a device that holds an attempt is left alone, and so is the whole pool while jobs wait: a measurement beside
other work is wrong, and slows it down. GPUs are taken from the catalogue.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from orchestrator.domain.pool import Device
from orchestrator.domain.states import JobState
from orchestrator.runtime.launcher import Launcher
from orchestrator.scheduler.loop import Loop
from orchestrator.store import devices, jobs
from orchestrator.store.session import Store

QUIET_SECONDS = 10.0
"""Without a job that waits, since the start at the earliest: a pool that just came up is still busy with itself, and
its first user should not wait behind a measurement."""
LONGEST_BACK_OFF_SECONDS = 3600.0
"""After a failure: what cannot be measured is estimated by the catalogue, and is no hurry."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class MeasureFacts:
    """`used` are the ids of devices that hold an attempt; no job was checked or waited for `quiet_seconds`."""

    stored: Sequence[Device]
    used: frozenset[str]
    quiet_seconds: float


class Measure:
    def __init__(
        self,
        store: Store,
        launcher: Launcher,
        *,
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._launcher = launcher
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._busy_at = clock()

    def loop(self) -> Loop[MeasureFacts, Device]:
        return Loop(
            name="measure",
            interval_seconds=self._interval_seconds,
            load=self.load,
            decide=choose_unmeasured,
            apply=self.apply,
            subject=lambda device: device.device_id,
            longest_back_off_seconds=LONGEST_BACK_OFF_SECONDS,
        )

    def load(self) -> MeasureFacts:
        now = self._clock()
        with self._store.read() as tx:
            if jobs.list_in_state(tx, [JobState.VALIDATING_FILES, JobState.QUEUED], 1):
                self._busy_at = now
            return MeasureFacts(
                stored=devices.list_devices(tx),
                used=frozenset(use.device_id for use in devices.list_uses(tx)),
                quiet_seconds=now - self._busy_at,
            )

    def apply(self, device: Device) -> None:
        speed = self._launcher.measure(device.node_name)
        with self._store.write() as tx:
            devices.record_speed(tx, device.device_id, speed)
        log.info("device measured", device_id=device.device_id, **speed.model_dump(exclude={"kind", "measured"}))


def choose_unmeasured(facts: MeasureFacts) -> Sequence[Device]:
    """One at a time, so that two of a machine do not disturb each other."""
    if facts.quiet_seconds < QUIET_SECONDS:
        return ()
    waiting = [
        device
        for device in facts.stored
        if device.kind == "cpu" and device.online and device.speed is None and device.device_id not in facts.used
    ]
    return waiting[:1]
