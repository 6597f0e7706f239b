"""Whether the control plane can work, and how busy it is: for probes and for Prometheus, so no caller is asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.domain.errors import TunepoolError
from orchestrator.domain.failures import FailureKind
from orchestrator.domain.scheduling.demand import Lack
from orchestrator.domain.states import AttemptState, JobState
from orchestrator.objects.client import Objects
from orchestrator.services.pool import DeviceView, read_pool
from orchestrator.store import attempts, jobs, lacks, leader, ledger, nodes
from orchestrator.store.session import Store


@dataclass(frozen=True, kw_only=True)
class Check:
    """One part. `age_seconds` is set for the leader: since it last renewed its lease."""

    ok: bool
    message: str | None = None
    age_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Everything at one moment. Sums are (billed, lost) micro-dollars by device type."""

    jobs: Mapping[JobState, int]
    attempts: Mapping[tuple[AttemptState, FailureKind | None], int]
    devices: tuple[DeviceView, ...]
    lacks: Sequence[Lack]
    resting_nodes: int
    ledger: Mapping[str, tuple[int, int]]
    leader: Check


@dataclass(frozen=True, kw_only=True)
class Health:
    store: Store
    objects: Objects
    leader_lease_seconds: float

    def check(self) -> dict[str, Check]:
        """Ask every part that a job needs. Never raises; a part that does not answer is not ok, and says why."""
        return {
            "database": _try(self.store.ping),
            "objects": _try(self.objects.ping),
            "leader": self._check_leader(),
        }

    def measure(self) -> Measurement:
        """Raises StoreUnavailableError."""
        leads = self._check_leader()
        with self.store.read() as tx:
            return Measurement(
                jobs=jobs.count_by_state(tx),
                attempts=attempts.count_by_state(tx),
                devices=read_pool(tx),
                lacks=lacks.list_lacks(tx),
                resting_nodes=sum(node.is_resting for node in nodes.list_nodes(tx)),
                ledger=ledger.sum_by_device_type(tx),
                leader=leads,
            )

    def _check_leader(self) -> Check:
        try:
            with self.store.read() as tx:
                found, now = leader.find_leader(tx), tx.now()
        except TunepoolError as error:
            return Check(ok=False, message=error.message)
        if found is None:
            return Check(ok=False, message="no scheduler leads; is `python -m orchestrator` running?")
        age_seconds = self.leader_lease_seconds - (found.expires_at - now).total_seconds()
        if found.expires_at <= now:
            return Check(ok=False, message="the scheduler's lease has run out", age_seconds=round(age_seconds, 3))
        return Check(ok=True, age_seconds=round(max(0.0, age_seconds), 3))


def _try(ask: Callable[[], None]) -> Check:
    try:
        ask()
    except TunepoolError as error:
        return Check(ok=False, message=error.message)
    return Check(ok=True)
