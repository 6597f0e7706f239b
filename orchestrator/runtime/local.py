"""Attempts in child processes of this process, on its CPU, without Ray: for tests, and for a laptop that has no Ray.

The supervisors live in this process, so its end ends the attempts; they go on from their checkpoints as new attempts.
"""

import threading
from collections.abc import Sequence

from orchestrator.domain.elastic import DeviceGroup
from orchestrator.domain.errors import AttemptGoneError, ClusterUnavailableError, TunepoolError
from orchestrator.domain.protocol import Pulled, StopReason, ValidationResult, ValidationSpec
from orchestrator.domain.speed import DeviceSpeed
from orchestrator.runtime.cleanup import clean_attempt
from orchestrator.runtime.devices import detect_devices
from orchestrator.runtime.launcher import DeclaredDevice, Launch, PullRequest
from orchestrator.runtime.measuring import run_measurement
from orchestrator.runtime.supervisor import Supervisor
from orchestrator.runtime.validation import ValidationLimits, run_validation


class LocalLauncher:
    """Thread-safe. `device` is by default the CPU with a share of this machine's RAM."""

    def __init__(
        self,
        *,
        stop_grace_seconds: float,
        device: DeclaredDevice | None = None,
        worker_command: Sequence[str] | None = None,
        validation_limits: ValidationLimits | None = None,
    ) -> None:
        self._stop_grace_seconds = stop_grace_seconds
        self._device = device or detect_devices()[0]
        self._worker_command = worker_command
        self._validation_limits = validation_limits
        self._lock = threading.Lock()
        self._supervisors: dict[str, Supervisor] = {}

    def list_devices(self) -> Sequence[DeclaredDevice]:
        return (self._device,)

    def launch(self, launch: Launch) -> None:
        self._check_node(launch.node_name)
        attempt_id = launch.spec.attempt_id
        with self._lock:
            running = self._supervisors.get(attempt_id)
            if running is None:
                supervisor = Supervisor(
                    launch.spec,
                    lease_generation=launch.lease_generation,
                    stop_grace_seconds=self._stop_grace_seconds,
                    command=self._worker_command,
                )
                self._start(supervisor)
                self._supervisors[attempt_id] = supervisor
        if running is not None:
            running.accept(launch.lease_generation)

    def pull(self, requests: Sequence[PullRequest], *, timeout_seconds: float) -> dict[str, Pulled | Exception]:
        return {request.attempt_id: self._pull(request) for request in requests}

    def stop(self, attempt_id: str, *, lease_generation: int, stop: StopReason, grace_seconds: float) -> None:
        supervisor = self._find(attempt_id)
        if supervisor is None:
            raise AttemptGoneError
        supervisor.stop(stop, lease_generation=lease_generation, grace_seconds=grace_seconds)

    def release(self, attempt_id: str) -> None:
        supervisor = self._find(attempt_id)
        if supervisor is not None and supervisor.close():
            with self._lock:
                self._supervisors.pop(attempt_id, None)

    def confirm_gone(self, attempt_id: str, *, node_name: str) -> bool:
        self._check_node(node_name)
        self.release(attempt_id)
        return self._find(attempt_id) is None and clean_attempt(attempt_id)

    def validate(self, spec: ValidationSpec) -> ValidationResult:
        return run_validation(spec, command=self._worker_command, limits=self._validation_limits)

    def measure(self, node_name: str) -> DeviceSpeed:
        self._check_node(node_name)
        return run_measurement(command=self._worker_command)

    def request_devices(self, groups: Sequence[DeviceGroup]) -> None:
        """There is nobody to ask: this machine is what it is."""

    def close(self) -> None:
        """Ends the attempts, which could not go on without this process."""
        with self._lock:
            attempt_ids = list(self._supervisors)
        for attempt_id in attempt_ids:
            self.release(attempt_id)

    def _pull(self, request: PullRequest) -> Pulled | Exception:
        supervisor = self._find(request.attempt_id)
        if supervisor is None:
            return AttemptGoneError()
        try:
            return supervisor.pull(request.cursor, lease_generation=request.lease_generation, grant=request.grant)
        except TunepoolError as error:
            return error

    def _find(self, attempt_id: str) -> Supervisor | None:
        with self._lock:
            return self._supervisors.get(attempt_id)

    def _check_node(self, node_name: str) -> None:
        if node_name != self._device.node_name:
            raise ClusterUnavailableError(f"there is no node {node_name} here")

    def _start(self, supervisor: Supervisor) -> None:
        try:
            supervisor.start()
        except OSError as error:
            message = f"the attempt could not be started on {self._device.node_name}: {error}"
            raise ClusterUnavailableError(message) from error
