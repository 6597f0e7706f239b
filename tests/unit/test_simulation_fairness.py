"""Promises to teams in small: shares by weight while all want more, and a guarantee that is given back in time."""

from random import Random

from orchestrator.domain.scheduling.facts import Rules
from orchestrator.domain.scheduling.planner import Planner
from orchestrator.simulation.engine import Simulation
from orchestrator.simulation.workload import ANY_TYPE, SimulatedJob
from tests.bench.fairness import deviations
from tests.support.pools import device, queued, team

HOUR = 3600.0
DAYS = 3
POOL = [device(f"n{number // 4}/{number}") for number in range(12)]


def _job(job_id: str, team_id: str, at: float, hours: float, gib: float = 20) -> SimulatedJob:
    job = queued(job_id, gib, hours * HOUR, team_id=team_id, user_id=team_id, queued_at=at)
    return SimulatedJob(queued=job, seconds_by_type={ANY_TYPE: hours * HOUR})


def _demand(random: Random, teams: str, per_hour: int) -> list[SimulatedJob]:
    """Each team asks for more than all of the pool: jobs of 1.8 hours in the mean."""
    return [
        _job(f"{name}{hour:03}-{number}", name, hour * HOUR + random.random() * HOUR, random.choice([0.5, 1, 4]))
        for hour in range(DAYS * 24)
        for name in teams
        for number in range(per_hour)
    ]


def test_borrowers_share_by_weight_over_any_day_of_contention() -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 3.0}
    simulation = Simulation(Planner(), POOL, [team(name, weight=weight) for name, weight in weights.items()])
    simulation.add(_demand(Random(1), "abc", 7))
    found = deviations(simulation.run(until=DAYS * 24 * HOUR), weights, first_hour=12)
    assert len(found) == 3 * (DAYS * 24 - 1 - 24 - 12)
    assert max(map(abs, found)) < 0.05


def test_a_guaranteed_team_that_comes_back_has_its_devices_within_the_grace() -> None:
    rules = Rules()
    simulation = Simulation(Planner(rules), POOL, [team("a"), team("b"), team("g", 2)])
    returns = {f"g{hour}-{number}": hour * HOUR + 17 * hour for hour in range(3, 66, 6) for number in range(2)}
    simulation.add([*_demand(Random(2), "ab", 7), *(_job(name, "g", at, 2) for name, at in returns.items())])
    records = simulation.run(until=DAYS * 24 * HOUR)
    waits = [records.jobs[name].intervals[0].started_at - at for name, at in returns.items()]
    assert len(waits) == 22
    assert max(waits) <= rules.least_grace_seconds
