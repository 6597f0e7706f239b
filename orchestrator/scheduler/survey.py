"""Which devices the pool has now.

Invariant: a cluster that does not answer says nothing. Only an answer takes devices away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from orchestrator.domain.pool import Device
from orchestrator.runtime.launcher import DeclaredDevice, Launcher
from orchestrator.scheduler.loop import Loop
from orchestrator.store import devices
from orchestrator.store.session import Store

REFRESH = timedelta(seconds=30)
"""`seen_at` is refreshed this often when nothing changed, so that an idle pool costs few writes."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class SurveyFacts:
    declared: Sequence[DeclaredDevice]
    stored: Sequence[Device]
    now: datetime


class Survey:
    def __init__(self, store: Store, launcher: Launcher, *, interval_seconds: float) -> None:
        self._store = store
        self._launcher = launcher
        self._interval_seconds = interval_seconds

    def loop(self) -> Loop[SurveyFacts, Sequence[DeclaredDevice]]:
        return Loop(
            name="survey",
            interval_seconds=self._interval_seconds,
            load=self.load,
            decide=decide_survey,
            apply=self.apply,
            subject=lambda declared: "pool",
            wakes=("place",),
        )

    def load(self) -> SurveyFacts:
        declared = self._launcher.list_devices()
        with self._store.read() as tx:
            return SurveyFacts(declared=declared, stored=devices.list_devices(tx), now=tx.now())

    def apply(self, declared: Sequence[DeclaredDevice]) -> None:
        with self._store.write() as tx:
            devices.record_devices(tx, declared)
        log.debug("devices recorded", online=len(declared))


def decide_survey(facts: SurveyFacts) -> Sequence[Sequence[DeclaredDevice]]:
    """Record the devices when one came, went or changed, or when the last record is getting old."""
    online = {device.device_id: device for device in facts.stored if device.online}
    same = online.keys() == {device.device_id for device in facts.declared} and all(
        _is_same(online[device.device_id], device) for device in facts.declared
    )
    fresh = all(facts.now - device.seen_at < REFRESH for device in online.values())
    return () if same and fresh else (facts.declared,)


def _is_same(stored: Device, declared: DeclaredDevice) -> bool:
    return (stored.node_name, stored.device_type, stored.kind, stored.usable_bytes) == (
        declared.node_name,
        declared.device_type,
        declared.kind,
        declared.total_bytes,
    )
