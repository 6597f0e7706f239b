"""What a simulation is fed: jobs with what they really take beside what the scheduler is told, and losses of nodes.

Moments and durations are seconds. The truth never reaches the scheduler: it sees only the facts in `queued`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.domain.scheduling.facts import QueuedJob

ANY_TYPE = "*"


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedJob:
    """`queued` is what is submitted, at `queued.queued_at`. `seconds_by_type` is how long it really runs, from its
    first step to its last, by device type (`*` for the rest); None when it takes what its footprint says, as in a
    forecast."""

    queued: QueuedJob
    seconds_by_type: Mapping[str, float] | None = None

    def seconds_on(self, device_type: str, footprint: str) -> float:
        """The true duration on devices of this type, in the footprint of that name. Raises KeyError if never said."""
        seconds = self.seconds_by_type
        if seconds is None:
            named = {each.name: each.seconds_by_type for each in self.queued.footprints}
            seconds = named.get(footprint) or self.queued.footprints[0].seconds_by_type
        found = seconds.get(device_type)
        return seconds[ANY_TYPE] if found is None else found


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeLoss:
    """A node that is away from `down_at` to `up_at`; what ran on it goes on from its newest checkpoint."""

    node_name: str
    down_at: float
    up_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What the machinery around the scheduler takes.

    A job asked to stop leaves after `stop_seconds` with a checkpoint; going on from one costs `resume_seconds` of
    devices. Beside that a checkpoint is written every `checkpoint_seconds`, which only matters when a node is lost.
    While jobs wait, the scheduler is asked at least every `tick_seconds`, since some rules depend on time alone.
    """

    stop_seconds: float = 30.0
    resume_seconds: float = 60.0
    checkpoint_seconds: float = 900.0
    tick_seconds: float = 300.0
