"""The production launcher: one detached, named actor per attempt, on the node and device that the scheduler chose.

Ray only obeys. Its accounting of a device's memory is a second lock behind the database's: what does not fit there is
not started. Nothing is believed because Ray says so; a process counts as gone when its node has looked.

Attaching to a cluster needs a Ray node on this machine (`ray start --address HEAD --num-cpus 0` makes one that runs
nothing).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from orchestrator.domain.elastic import DeviceGroup
from orchestrator.domain.protocol import Pulled, StopReason, ValidationResult, ValidationSpec
from orchestrator.domain.speed import DeviceSpeed
from orchestrator.runtime.actor import StartOrder
from orchestrator.runtime.bridge import MARGIN_SECONDS, Bridge, error_of
from orchestrator.runtime.devices import decode_devices, encode_group
from orchestrator.runtime.launcher import DeclaredDevice, Launch, PullRequest
from orchestrator.runtime.measuring import TIME_LIMIT_SECONDS
from orchestrator.runtime.validation import ValidationLimits

LAUNCH_SECONDS = 60.0
"""An actor that has not started by then waits for memory that the database thought free, or for a dying node."""
CONNECT_LIMIT_SECONDS = 8
CALL_SECONDS = 15.0
RELEASE_SECONDS = 60.0
CLEAN_SECONDS = 75.0
ERRAND_MARGIN_SECONDS = 60.0


def ray_environment(token: str) -> dict[str, str]:
    """Variables for each process of a cluster and each that attaches to it. Without a token Ray's own settings hold.

    RAY_AUTH_MODE is read when Ray's library is loaded, so it must be in the environment that a process starts with. A
    missing or wrong token is refused by the head's control store itself (both tried with Ray 2.60).
    """
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
    return {**quiet, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else quiet


class RayLauncher:
    """See `launcher.Launcher`. Thread-safe. Connects when it is first called, and again after a loss."""

    def __init__(
        self,
        address: str,
        namespace: str,
        token: str,
        *,
        stop_grace_seconds: float,
        launch_seconds: float = LAUNCH_SECONDS,
        worker_command: Sequence[str] | None = None,
        validation_limits: ValidationLimits | None = None,
        environment: Mapping[str, str] | None = None,
        margin_seconds: float = MARGIN_SECONDS,
    ) -> None:
        """`stop_grace_seconds` is the time to save in when a lease runs out. `launch_seconds`: how long an actor may
        wait for its start. `worker_command` replaces the workers' entry point in tests. `environment` are further
        variables of Ray for the process that attaches to it, and `margin_seconds` is what that process may take beyond
        a call's own limit before it is given up."""
        connect = {"RAY_py_gcs_connect_timeout_s": str(CONNECT_LIMIT_SECONDS)}
        variables = {**ray_environment(token), **connect, **(environment or {})}
        self._bridge = Bridge(address, namespace, environment=variables, margin_seconds=margin_seconds)
        self._stop_grace_seconds = stop_grace_seconds
        self._launch_seconds = launch_seconds
        self._worker_command = tuple(worker_command) if worker_command else None
        self._validation_limits = validation_limits or ValidationLimits()

    @property
    def driver_pid(self) -> int | None:
        """The process that is attached to Ray, None when none is."""
        return self._bridge.driver_pid

    def list_devices(self) -> Sequence[DeclaredDevice]:
        nodes = self._bridge.call("list_nodes", {}, timeout_seconds=CALL_SECONDS)
        devices = {d.device_id: d for node in nodes for d in decode_devices(node["resources"], node["labels"])}
        return tuple(devices[device_id] for device_id in sorted(devices))

    def launch(self, launch: Launch) -> None:
        order = StartOrder(
            spec=launch.spec,
            lease_generation=launch.lease_generation,
            stop_grace_seconds=self._stop_grace_seconds,
            worker_command=self._worker_command,
        )
        self._bridge.call(
            "launch",
            {
                "order": order.model_dump_json(),
                "node_name": launch.node_name,
                "timeout_seconds": self._launch_seconds,
            },
            timeout_seconds=self._launch_seconds + CLEAN_SECONDS,
        )

    def pull(self, requests: Sequence[PullRequest], *, timeout_seconds: float) -> dict[str, Pulled | Exception]:
        if not requests:
            return {}
        asked = [
            {
                "attempt_id": request.attempt_id,
                "cursor": request.cursor,
                "lease_generation": request.lease_generation,
                "grant": request.grant.model_dump_json() if request.grant else None,
            }
            for request in requests
        ]
        arguments = {"requests": asked, "timeout_seconds": timeout_seconds}
        answers = self._bridge.call("pull", arguments, timeout_seconds=timeout_seconds)
        return {
            attempt_id: (
                Pulled.model_validate_json(answer["body"])
                if "body" in answer
                else error_of(answer["error"], answer.get("message", ""))
            )
            for attempt_id, answer in answers.items()
        }

    def stop(self, attempt_id: str, *, lease_generation: int, stop: StopReason, grace_seconds: float) -> None:
        arguments = {
            "attempt_id": attempt_id,
            "stop": stop.model_dump_json(),
            "lease_generation": lease_generation,
            "grace_seconds": grace_seconds,
        }
        self._bridge.call("stop", arguments, timeout_seconds=CALL_SECONDS)

    def release(self, attempt_id: str) -> None:
        self._bridge.call("release", {"attempt_id": attempt_id}, timeout_seconds=RELEASE_SECONDS)

    def confirm_gone(self, attempt_id: str, *, node_name: str) -> bool:
        arguments = {"attempt_id": attempt_id, "node_name": node_name}
        return bool(self._bridge.call("confirm_gone", arguments, timeout_seconds=CLEAN_SECONDS))

    def validate(self, spec: ValidationSpec) -> ValidationResult:
        timeout_seconds = self._validation_limits.time_seconds + ERRAND_MARGIN_SECONDS
        arguments = {
            "spec": spec.model_dump_json(),
            "worker_command": self._worker_command,
            "limits": asdict(self._validation_limits),
            "timeout_seconds": timeout_seconds,
        }
        answer = self._bridge.call("validate", arguments, timeout_seconds=timeout_seconds)
        return ValidationResult.model_validate_json(answer)

    def measure(self, node_name: str) -> DeviceSpeed:
        timeout_seconds = TIME_LIMIT_SECONDS + ERRAND_MARGIN_SECONDS
        arguments = {
            "node_name": node_name,
            "worker_command": self._worker_command,
            "timeout_seconds": timeout_seconds,
        }
        answer = self._bridge.call("measure", arguments, timeout_seconds=timeout_seconds)
        return DeviceSpeed.model_validate_json(answer)

    def request_devices(self, groups: Sequence[DeviceGroup]) -> None:
        asked = [encode_group(group) for group in groups]
        arguments = {"bundles": [bundle for bundle, _ in asked], "selectors": [labels for _, labels in asked]}
        self._bridge.call("request_devices", arguments, timeout_seconds=CALL_SECONDS)

    def close(self) -> None:
        self._bridge.close()
