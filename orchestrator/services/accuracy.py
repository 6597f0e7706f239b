"""How often, and how far, estimates were wrong lately. Over the whole pool, without a word of whose jobs they were."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from orchestrator.domain.calibration import interpolate_quantile, sample_memory
from orchestrator.domain.observations import Observation
from orchestrator.domain.teams import Caller
from orchestrator.store import observations
from orchestrator.store.session import Store

LATEST_ATTEMPTS = 200


@dataclass(frozen=True, kw_only=True)
class Errors:
    """|measured / predicted - 1| over `count` attempts; `over` of them took more than predicted. None without any."""

    count: int
    over: int
    median: float | None
    p95: float | None
    worst: float | None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Of what users were told, any learned margin included. `since` is when the oldest of the attempts ended."""

    attempts: int
    since: datetime | None
    out_of_memory: int
    memory: Errors
    memory_uncalibrated: Errors
    """Of the same attempts by the bare estimate: what learning is worth."""
    time: Errors
    """Of attempts that went from the start to success; seconds that are billed."""


@dataclass(frozen=True)
class AccuracyReader:
    store: Store

    def read(self, caller: Caller) -> Accuracy:
        """Over the newest attempts of all teams; every caller may know it."""
        with self.store.read() as tx:
            return measure_accuracy(observations.list_newest(tx, LATEST_ATTEMPTS))


def measure_accuracy(latest: Sequence[Observation]) -> Accuracy:
    """Of attempts in any order. A run out of memory counts among the failures: how wrong it was, nobody knows."""
    peaked = [seen for seen in latest if not seen.out_of_memory and sample_memory(seen) is not None]
    whole = [seen for seen in latest if seen.succeeded and not seen.resumed]
    return Accuracy(
        attempts=len(latest),
        since=min((seen.ended_at for seen in latest), default=None),
        out_of_memory=sum(seen.out_of_memory for seen in latest),
        memory=_compare((seen.measured_bytes, seen.told_bytes) for seen in peaked),
        memory_uncalibrated=_compare((seen.measured_bytes, seen.predicted_bytes) for seen in peaked),
        time=_compare((seen.run_seconds, seen.told_seconds) for seen in whole),
    )


def _compare(pairs: Iterable[tuple[float, float | None]]) -> Errors:
    signed = [measured / predicted - 1 for measured, predicted in pairs if predicted]
    errors = sorted(abs(error) for error in signed)
    return Errors(
        count=len(errors),
        over=sum(error > 0 for error in signed),
        median=median(errors) if errors else None,
        p95=interpolate_quantile(errors, 0.95) if errors else None,
        worst=errors[-1] if errors else None,
    )
