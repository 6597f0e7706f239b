"""What the scheduler needs of an executor. `ray.py` is production; `local.py` runs the same supervisor in threads.

All calls may raise ClusterUnavailableError; calls about one attempt raise AttemptGoneError when its supervisor is not
there. Neither proves that the training process is gone: only `confirm_gone` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from orchestrator.domain.elastic import DeviceGroup
from orchestrator.domain.protocol import (
    AttemptSpec,
    Pulled,
    StopReason,
    UploadGrant,
    ValidationResult,
    ValidationSpec,
)
from orchestrator.domain.speed import DeviceSpeed


@dataclass(frozen=True, kw_only=True)
class DeclaredDevice:
    """A device that a node of the cluster offers. `node_name` survives restarts of Ray on the same machine."""

    device_id: str
    node_name: str
    device_type: str
    kind: Literal["cpu", "cuda"]
    index: int
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Start this attempt on that node, fenced by the generation of the attempt's lease."""

    spec: AttemptSpec
    node_name: str
    lease_generation: int


@dataclass(frozen=True, kw_only=True)
class PullRequest:
    """Entries after `cursor` of one attempt. A pull renews the supervisor's lease."""

    attempt_id: str
    lease_generation: int
    cursor: int
    grant: UploadGrant | None = None
    """A fresh grant that replaces the one in the spec before it expires."""


class Launcher(Protocol):
    def list_devices(self) -> Sequence[DeclaredDevice]:
        """Every device of every node that is alive now."""
        ...

    def launch(self, launch: Launch) -> None:
        """Start the supervisor; returns when it was accepted. Launching an attempt that runs already does nothing."""
        ...

    def pull(self, requests: Sequence[PullRequest], *, timeout_seconds: float) -> dict[str, Pulled | Exception]:
        """Pull from several supervisors at once. An attempt that did not answer in time is absent from the answer;
        one whose supervisor is gone, or that refused a stale generation, has an AttemptGoneError or LeaseLostError."""
        ...

    def stop(self, attempt_id: str, *, lease_generation: int, stop: StopReason, grace_seconds: float) -> None:
        """Ask the training process to stop; it is killed after the grace."""
        ...

    def release(self, attempt_id: str) -> None:
        """End the supervisor and whatever is left of its processes, and drop its folder. Safe to repeat."""
        ...

    def confirm_gone(self, attempt_id: str, *, node_name: str) -> bool:
        """End the attempt's supervisor and kill what is left of its processes on its node, and keep it from starting
        there again; True only on proof that none lives. Raises ClusterUnavailableError when the node is not there."""
        ...

    def validate(self, spec: ValidationSpec) -> ValidationResult:
        """Tokenize files in a worker-side process. Raises ClusterUnavailableError, or TunepoolError when it crashed."""
        ...

    def measure(self, node_name: str) -> DeviceSpeed:
        """How fast the node's CPU is now. Raises ClusterUnavailableError, or TunepoolError when it crashed."""
        ...

    def request_devices(self, groups: Sequence[DeviceGroup]) -> None:
        """Tell whoever adds nodes that the cluster should have these devices, those in use included, each group on one
        node. It stands until the next request. Without an autoscaler nothing comes of it."""
        ...

    def close(self) -> None:
        """Leave the cluster; running attempts go on."""
        ...
