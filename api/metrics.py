"""What Prometheus sees: requests as they pass, and the pool's state read from the database at each scrape.

Few labels, never an identifier of a job, a key or a team's member. Each app has a registry of its own.
"""

from prometheus_client import CollectorRegistry, Histogram

REQUEST_SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)


class HttpMetrics:
    """Requests by method, route template and status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "tunepool_http_request_seconds",
            "Time until the answer was complete, by route template.",
            ("method", "route", "status"),
            registry=registry,
            buckets=REQUEST_SECONDS_BUCKETS,
        )

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        self._seconds.labels(method, route, str(status)).observe(seconds)
