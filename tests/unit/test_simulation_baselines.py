"""The orders to compare with, on a flat pool of four devices."""

import pytest

from orchestrator.simulation.attained import LeastAttained
from orchestrator.simulation.baselines import Easy, Fifo, Skip
from orchestrator.simulation.engine import Decider, Simulation
from orchestrator.simulation.philly import TraceJob, as_workload, flat_pool
from orchestrator.simulation.records import Records
from orchestrator.simulation.workload import Timing

TIMING = Timing(stop_seconds=0.0, resume_seconds=60.0, checkpoint_seconds=float("inf"))
HOUR = 3600.0


def _run(decider: Decider, *jobs: tuple[str, float, float, int]) -> Records:
    """Jobs as (name, arrival, seconds, gpus), with exact estimates."""
    trace = [TraceJob(name=name, arrives_at=at, seconds=s, gpus=gpus, team="t") for name, at, s, gpus in jobs]
    simulation = Simulation(decider, flat_pool(4), [], timing=TIMING)
    simulation.add(as_workload(trace, most_factor=1.0))
    return simulation.run()


LINE = (("wide", 0, 100, 3), ("whole", 1, 100, 4), ("short", 2, 50, 1), ("long", 3, 500, 1))


@pytest.mark.parametrize(
    ("decider", "starts"),
    [
        (Fifo, {"wide": 0, "whole": 100, "short": 200, "long": 200}),
        (Skip, {"wide": 0, "short": 2, "long": 52, "whole": 552}),
        (Easy, {"wide": 0, "short": 2, "whole": 100, "long": 200}),
    ],
)
def test_who_goes_ahead_of_a_job_that_does_not_fit(decider: type[Fifo], starts: dict[str, float]) -> None:
    records = _run(decider(), *LINE)
    assert {name: job.intervals[0].started_at for name, job in records.jobs.items()} == starts


def test_who_had_least_takes_the_place_of_who_had_more() -> None:
    records = _run(LeastAttained(), ("old", 0, 10 * HOUR, 4), ("new", HOUR, 600, 4))
    assert records.jobs["new"].intervals[0].started_at == HOUR
    assert records.jobs["old"].ended_at == pytest.approx(10 * HOUR + 600 + 60)
    assert len(records.jobs["old"].preemptions) == 1


def test_nobody_is_stopped_while_there_is_room() -> None:
    records = _run(LeastAttained(), ("old", 0, 10 * HOUR, 2), ("new", HOUR, 600, 2))
    assert not records.jobs["old"].preemptions
