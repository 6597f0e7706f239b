"""How fast the pool's CPUs are, measured once on each while nothing runs there.

Invariants: a device that holds an attempt is left alone, and so is the whole pool while jobs wait: a measurement beside
other work is wrong, and slows it down. GPUs are taken from the catalogue.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from orchestrator.domain.pool import Device
from orchestrator.domain.states import JobState
from orchestrator.runtime.launcher import Launcher
from orchestrator.scheduler.loop import Loop
from orchestrator.store import devices, jobs
from orchestrator.store.session import Store

LONGEST_BACK_OFF_SECONDS = 3600.0
"""After a failure: what cannot be measured is estimated by the catalogue, and is no hurry."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class MeasureFacts:
    """`used` are the ids of devices that hold an attempt; `busy` while a job is checked or waits for a device."""

    stored: Sequence[Device]
    used: frozenset[str]
    busy: bool


class Measure:
    def __init__(self, store: Store, launcher: Launcher, *, interval_seconds: float) -> None:
        self._store = store
        self._launcher = launcher
        self._interval_seconds = interval_seconds

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
        with self._store.read() as tx:
            return MeasureFacts(
                stored=devices.list_devices(tx),
                used=frozenset(use.device_id for use in devices.list_uses(tx)),
                busy=bool(jobs.list_in_state(tx, [JobState.VALIDATING_FILES, JobState.QUEUED], 1)),
            )

    def apply(self, device: Device) -> None:
        speed = self._launcher.measure(device.node_name)
        with self._store.write() as tx:
            devices.record_speed(tx, device.device_id, speed)
        log.info("device measured", device_id=device.device_id, **speed.model_dump(exclude={"kind", "measured"}))


def choose_unmeasured(facts: MeasureFacts) -> Sequence[Device]:
    """One at a time, so that two of a machine do not disturb each other."""
    if facts.busy:
        return ()
    waiting = [
        device
        for device in facts.stored
        if device.kind == "cpu" and device.online and device.speed is None and device.device_id not in facts.used
    ]
    return waiting[:1]
