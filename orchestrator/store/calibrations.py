"""Calibrations that are remembered for some seconds: estimates are asked for far more often than attempts end."""

import threading
import time
from collections.abc import Callable, Sequence

from orchestrator.domain.calibration import merge_by_kind
from orchestrator.domain.estimate_terms import Calibration
from orchestrator.domain.observations import JobKind, name_kind
from orchestrator.domain.placement import DeviceKind, DeviceRoom
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.pool import BaseModel
from orchestrator.store.observations import read_calibration
from orchestrator.store.session import ReadTx

KEPT_SECONDS = 5.0
MOST_KINDS = 512


class Calibrations:
    """For one database. May be used by any number of threads; two of them may read the same one at once."""

    def __init__(self, *, kept_seconds: float = KEPT_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept_seconds = kept_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[JobKind, tuple[float, Calibration]] = {}

    def read(self, tx: ReadTx, kind: JobKind) -> Calibration:
        """At most `kept_seconds` old."""
        now = self._clock()
        with self._lock:
            known = self._known.get(kind)
        if known is not None and now - known[0] < self._kept_seconds:
            return known[1]
        found = read_calibration(tx, kind)
        with self._lock:
            if len(self._known) >= MOST_KINDS:
                self._known.clear()
            self._known[kind] = (now, found)
        return found

    def read_by_kind(
        self, tx: ReadTx, rooms: Sequence[DeviceRoom], *, plan: TrainingPlan, model: BaseModel
    ) -> dict[DeviceKind, Calibration]:
        """What attempts of such jobs have taught on the device types of `rooms`, by kind of device."""
        return merge_by_kind(rooms, self.read_by_type(tx, rooms, plan=plan, model=model))

    def read_by_type(
        self, tx: ReadTx, rooms: Sequence[DeviceRoom], *, plan: TrainingPlan, model: BaseModel
    ) -> dict[str, Calibration]:
        """The same by device type."""
        family = model.facts.model_type
        kinds = {
            device_type: name_kind(plan, base_model=model.name, family=family, device_type=device_type)
            for device_type in sorted({room.device_type for room in rooms})
        }
        return {device_type: self.read(tx, kind) for device_type, kind in kinds.items()}
