"""How far estimates were off lately."""

from typing import Literal

from api.schemas.wire import Wire, find_unix
from orchestrator.services.accuracy import Accuracy, Errors


class ErrorsOut(Wire):
    """|measured / predicted - 1|, as fractions; null without any attempt."""

    count: int
    over: int
    """How many took more than was predicted."""
    median: float | None
    p95: float | None
    worst: float | None

    @classmethod
    def of(cls, errors: Errors) -> "ErrorsOut":
        return cls(count=errors.count, over=errors.over, median=errors.median, p95=errors.p95, worst=errors.worst)


class AccuracyOut(Wire):
    """Over the newest attempts of all teams."""

    object: Literal["estimate.accuracy"]
    attempts: int
    since: int | None
    """When the oldest of these attempts ended."""
    out_of_memory: int
    memory: ErrorsOut
    memory_uncalibrated: ErrorsOut
    """The same attempts by the bare estimate, without what was learned."""
    time: ErrorsOut

    @classmethod
    def of(cls, accuracy: Accuracy) -> "AccuracyOut":
        return cls(
            object="estimate.accuracy",
            attempts=accuracy.attempts,
            since=find_unix(accuracy.since),
            out_of_memory=accuracy.out_of_memory,
            memory=ErrorsOut.of(accuracy.memory),
            memory_uncalibrated=ErrorsOut.of(accuracy.memory_uncalibrated),
            time=ErrorsOut.of(accuracy.time),
        )
