"""A launcher in memory whose workers do what the test says, for tests of the loops. It keeps the protocol's rules.

Its processes outlive the control plane's objects, as real ones do: a test drops the loops, builds new ones on the same
launcher, and the workers are still there.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.domain.elastic import DeviceGroup
from orchestrator.domain.errors import AttemptGoneError, ClusterUnavailableError, LeaseLostError
from orchestrator.domain.protocol import (
    OUTCOME_KINDS,
    CheckpointStored,
    Entry,
    Failed,
    LogLine,
    Metric,
    Peak,
    Phase,
    Progress,
    Pulled,
    Stopped,
    StopReason,
    Succeeded,
    TokenCounts,
    ValidationResult,
    ValidationSpec,
)
from orchestrator.domain.speed import CPU_SPEED, DeviceSpeed
from orchestrator.runtime.launcher import DeclaredDevice, Launch, PullRequest

AnyReport = LogLine | Metric | Progress | Phase | CheckpointStored | Peak | Succeeded | Failed | Stopped
GIB = 2**30


def cpu_device(
    node: str = "node-a", *, total_bytes: int = 8 * GIB, device_type: str = "cpu", index: int = 0
) -> DeclaredDevice:
    return DeclaredDevice(
        device_id=f"{node}/cpu:{index}",
        node_name=node,
        device_type=device_type,
        kind="cpu",
        index=index,
        total_bytes=total_bytes,
    )


@dataclass
class ScriptedWorker:
    """One supervisor with its training process. `alive` is the process, not the supervisor."""

    launch: Launch
    entries: list[Entry] = field(default_factory=list)
    alive: bool = True
    exit_code: int | None = None
    generation: int = 0
    stops: list[StopReason] = field(default_factory=list)
    grants: list[object] = field(default_factory=list)
    answering: bool = True

    def report(self, *reports: AnyReport) -> None:
        """Append reports to the journal; an outcome ends the process with exit code 0."""
        for report in reports:
            self.entries.append(Entry(seq=len(self.entries) + 1, at_unix=time.time(), report=report))
            if report.kind in OUTCOME_KINDS:
                self.exit(0)

    def exit(self, code: int) -> None:
        self.alive, self.exit_code = False, code


class ScriptedLauncher:
    """`workers` are the supervisors that exist. `on_launch` and `on_stop` let a worker react by itself.

    `before` is called with the name of each protocol call before it does anything; raising there is a crash in between.
    """

    def __init__(
        self,
        devices: Sequence[DeclaredDevice] = (),
        *,
        entries_per_pull: int = 1000,
        on_launch: Callable[[ScriptedWorker], None] = lambda worker: None,
        on_stop: Callable[[ScriptedWorker, StopReason], None] = lambda worker, stop: None,
    ) -> None:
        self.devices = list(devices)
        self.workers: dict[str, ScriptedWorker] = {}
        self.launches: list[Launch] = []
        self.released: list[str] = []
        self.validations: list[ValidationSpec] = []
        self.validation: ValidationResult | Exception = ValidationResult(
            training=TokenCounts(
                rows=40, total_tokens=4000, trained_tokens=1500, longest_row_tokens=120, longest_row_line=3
            ),
            validation=None,
            problems=(),
        )
        self.measured: list[str] = []
        self.requests: list[tuple[DeviceGroup, ...]] = []
        self.speed = CPU_SPEED.model_copy(update={"measured": True})
        self.entries_per_pull = entries_per_pull
        self.available = True
        self.unkillable: set[str] = set()
        """Attempts whose processes survive every kill."""
        self.before: Callable[[str], None] = lambda call: None
        self._on_launch = on_launch
        self._on_stop = on_stop
        self._lock = threading.RLock()

    def worker(self, attempt_id: str) -> ScriptedWorker:
        return self.workers[attempt_id]

    def lose_node(self, node_name: str) -> None:
        """The node leaves the cluster with all that ran on it."""
        self.devices = [device for device in self.devices if device.node_name != node_name]
        self.workers = {k: w for k, w in self.workers.items() if w.launch.node_name != node_name}

    def list_devices(self) -> Sequence[DeclaredDevice]:
        self._check("list_devices")
        return tuple(self.devices)

    def launch(self, launch: Launch) -> None:
        self._check("launch")
        with self._lock:
            self.launches.append(launch)
            if launch.spec.attempt_id in self.workers:
                return
            worker = ScriptedWorker(launch=launch, generation=launch.lease_generation)
            self.workers[launch.spec.attempt_id] = worker
        self._on_launch(worker)

    def pull(self, requests: Sequence[PullRequest], *, timeout_seconds: float) -> dict[str, Pulled | Exception]:
        self._check("pull")
        answers: dict[str, Pulled | Exception] = {}
        for request in requests:
            worker = self.workers.get(request.attempt_id)
            if worker is None:
                answers[request.attempt_id] = AttemptGoneError()
            elif request.lease_generation < worker.generation:
                answers[request.attempt_id] = LeaseLostError()
            elif worker.answering:
                answers[request.attempt_id] = self._pull(worker, request)
        return answers

    def stop(self, attempt_id: str, *, lease_generation: int, stop: StopReason, grace_seconds: float) -> None:
        self._check("stop")
        worker = self.workers.get(attempt_id)
        if worker is None:
            raise AttemptGoneError
        if lease_generation < worker.generation:
            raise LeaseLostError
        worker.stops.append(stop)
        self._on_stop(worker, stop)

    def release(self, attempt_id: str) -> None:
        self._check("release")
        worker = self.workers.get(attempt_id)
        if worker is not None and attempt_id not in self.unkillable:
            worker.alive = False
            del self.workers[attempt_id]
        self.released.append(attempt_id)

    def confirm_gone(self, attempt_id: str, *, node_name: str) -> bool:
        self._check("confirm_gone")
        if node_name not in {device.node_name for device in self.devices}:
            raise ClusterUnavailableError(f"node {node_name} does not answer")
        if attempt_id in self.unkillable:
            return False
        worker = self.workers.get(attempt_id)
        if worker is not None:
            worker.alive = False
        return True

    def validate(self, spec: ValidationSpec) -> ValidationResult:
        self._check("validate")
        with self._lock:
            self.validations.append(spec)
        if isinstance(self.validation, Exception):
            raise self.validation
        return self.validation

    def measure(self, node_name: str) -> DeviceSpeed:
        self._check("measure")
        self.measured.append(node_name)
        return self.speed

    def request_devices(self, groups: Sequence[DeviceGroup]) -> None:
        self._check("request_devices")
        self.requests.append(tuple(groups))

    def close(self) -> None:
        self._check("close")

    def _pull(self, worker: ScriptedWorker, request: PullRequest) -> Pulled:
        worker.generation = max(worker.generation, request.lease_generation)
        if request.grant is not None:
            worker.grants.append(request.grant)
            spec = worker.launch.spec.model_copy(update={"upload": request.grant})
            worker.launch = replace(worker.launch, spec=spec)
        waiting = [entry for entry in worker.entries if entry.seq > request.cursor]
        batch = waiting[: self.entries_per_pull]
        return Pulled(
            entries=tuple(batch), alive=worker.alive, exit_code=worker.exit_code, more=len(waiting) > len(batch)
        )

    def _check(self, call: str) -> None:
        self.before(call)
        if not self.available:
            raise ClusterUnavailableError
