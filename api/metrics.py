"""What Prometheus sees: requests as they pass, and the pool's state, read from the database at each scrape.

Few labels, and never the identifier of a job, a key or a team. Each app has a registry of its own.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from orchestrator.domain.errors import TunepoolError
from orchestrator.domain.states import FINAL_ATTEMPT_STATES, JobState
from orchestrator.services.health import Measurement

REQUEST_SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class HttpMetrics:
    """Requests by method, route template and status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "tunepool_http_request_seconds",
            "Time until the answer began, by route template.",
            ("method", "route", "status"),
            registry=registry,
            buckets=REQUEST_SECONDS_BUCKETS,
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        self._seconds.labels(method, route, str(status)).observe(seconds)


class PoolCollector(Collector):
    """One transaction per scrape. While the database is away only `tunepool_up` is left, at 0."""

    def __init__(self, measure: Callable[[], Measurement]) -> None:
        self._measure = measure

    def describe(self) -> Iterable[Metric]:
        """Nothing is measured at registration."""
        return ()

    def collect(self) -> Iterable[Metric]:
        try:
            found = self._measure()
        except TunepoolError:
            yield GaugeMetricFamily("tunepool_up", "Whether the database answers.", value=0)
            return
        yield GaugeMetricFamily("tunepool_up", "Whether the database answers.", value=1)
        yield GaugeMetricFamily("tunepool_leader_up", "Whether a scheduler leads.", value=int(found.leader.ok))
        yield from _jobs(found)
        yield from _attempts(found)
        yield from _devices(found)
        yield from _lacks(found)
        yield from _money(found)


def _jobs(found: Measurement) -> Iterable[Metric]:
    family = GaugeMetricFamily("tunepool_jobs", "Jobs by state.", labels=("state",))
    for state in JobState:
        family.add_metric((state.value,), found.jobs.get(state, 0))
    yield family
    waiting = found.jobs.get(JobState.QUEUED, 0)
    yield GaugeMetricFamily("tunepool_queue_length", "Jobs that wait for a device.", value=waiting)


def _attempts(found: Measurement) -> Iterable[Metric]:
    active = GaugeMetricFamily("tunepool_attempts_active", "Attempts that have not ended, by state.", labels=("state",))
    ended = CounterMetricFamily(
        "tunepool_attempts_ended", "Attempts that ended, by outcome and failure.", labels=("outcome", "failure")
    )
    for (state, failure), count in found.attempts.items():
        if state in FINAL_ATTEMPT_STATES:
            ended.add_metric((state.value, failure.value if failure else "none"), count)
        else:
            active.add_metric((state.value,), count)
    yield active
    yield ended


def _devices(found: Measurement) -> Iterable[Metric]:
    labels = ("device", "device_type")
    usable = GaugeMetricFamily("tunepool_device_usable_bytes", "Bytes that jobs may share.", labels=labels)
    reserved = GaugeMetricFamily("tunepool_device_reserved_bytes", "Bytes that attempts hold.", labels=labels)
    online = GaugeMetricFamily("tunepool_device_online", "Whether the last survey saw the device.", labels=labels)
    for view in found.devices:
        names = (view.device.device_id, view.device.device_type)
        usable.add_metric(names, view.device.usable_bytes)
        reserved.add_metric(names, view.reserved_bytes)
        online.add_metric(names, int(view.device.online))
    yield from (usable, reserved, online)


def _lacks(found: Measurement) -> Iterable[Metric]:
    """A kind of device that is not lacking any more has no sample."""
    labels = ("device_type", "usable_bytes")
    lacking = GaugeMetricFamily(
        "tunepool_devices_lacking", "Whole devices that waiting jobs would need beyond those there are.", labels=labels
    )
    waiting = GaugeMetricFamily("tunepool_jobs_lacking_devices", "Waiting jobs that would run on them.", labels=labels)
    kinds = sorted({(lack.device_type, lack.usable_bytes) for lack in found.lacks})
    for device_type, usable_bytes in kinds:
        of_kind = [each for each in found.lacks if (each.device_type, each.usable_bytes) == (device_type, usable_bytes)]
        names = (device_type, str(usable_bytes))
        lacking.add_metric(names, sum(lack.devices for lack in of_kind))
        waiting.add_metric(names, sum(lack.jobs for lack in of_kind))
    yield from (lacking, waiting)
    yield GaugeMetricFamily(
        "tunepool_nodes_resting", "Nodes that take nothing because nothing ran there.", value=found.resting_nodes
    )


def _money(found: Measurement) -> Iterable[Metric]:
    """Exact as long as a float is: up to nine billion dollars."""
    family = CounterMetricFamily(
        "tunepool_ledger_usd_micros", "Micro-dollars in the ledger, by device type.", labels=("device_type", "kind")
    )
    for device_type, (billed, lost) in found.ledger.items():
        family.add_metric((device_type, "billed"), billed)
        family.add_metric((device_type, "lost"), lost)
    yield family
