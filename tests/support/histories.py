"""Histories of a busy pool, drawn from one random source: more jobs than room, all rules in play."""

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.facts import Footprint, Rules, TeamTerms
from tests.support.pools import GIB, Pool, device, footprint, queued, team

TEAMS = ("a", "b", "c", "d")
SIZES = (24, 48, 80)
CLASSES = (PriorityClass.NORMAL, PriorityClass.NORMAL, PriorityClass.URGENT, PriorityClass.IDLE)


def busy_pool(random: Random) -> Pool:
    """One to nine devices on up to three nodes, four teams with terms of every sort."""
    rules = Rules(
        most_holders=random.randrange(4),
        borrower_fairness=random.random() < 0.3,
        preemption=random.random() < 0.9,
        turns_hours=(1.0, 8.0) if random.random() < 0.2 else (),
        turns_spare_larger=random.random() < 0.5,
        least_run_seconds=random.choice([0.0, 60.0, 600.0]),
    )
    pool = Pool(rules=rules, now=1_000_000.0)
    for number in range(random.randint(1, 9)):
        gib = random.choice(SIZES)
        pool.set_devices(device(f"m{number // 3}/{number}", gib, weight_micros=gib * 40_000))
    pool.set_teams(*(random_team(random, team_id, pool.now) for team_id in TEAMS))
    return pool


def random_team(random: Random, team_id: str, now: float) -> TeamTerms:
    guarantee = random.choice([0, 0, 1, 2, 4])
    return team(
        team_id,
        guarantee,
        ceiling_micros=(guarantee + random.randint(1, 6)) * 1_000_000 if random.random() < 0.3 else None,
        weight=random.choice([0.0, 0.5, 1.0, 1.0, 3.0]),
        budget_left_usd_micros=random.randrange(30) if random.random() < 0.3 else None,
        usage=random.choice([0.0, 10_000.0, 90_000.0]),
        usage_at=now - random.choice([0.0, 5_000.0]),
        idle_when_exhausted=random.random() < 0.3,
    )


def random_footprints(random: Random) -> tuple[Footprint, ...]:
    gib = random.choice([2, 5, 8, 12, 20, 24, 30, 46, 60, 80])
    seconds = random.choice([120.0, 1_000.0, 4_000.0, 20_000.0])
    cost = random.randrange(6) if random.random() < 0.5 else None
    first = footprint(gib, seconds, cost=cost)
    return (first,) if random.random() < 0.7 else (first, footprint(gib / 2, seconds * 2, cost=cost, name="halved"))


def submit_some(random: Random, pool: Pool, most: int = 4) -> None:
    for _ in range(random.randint(0, most)):
        array = random.choice([None, None, None, 1, 2])
        pool.submit(
            queued(
                f"j{len(pool.asked):04}",
                team_id=random.choice(TEAMS),
                user_id=random.choice("uvw"),
                priority_class=random.choice(CLASSES),
                priority=random.choice([0, 0, 1, -1]),
                queued_at=pool.now,
                footprints=random_footprints(random),
                replicas=random.choice([1, 1, 1, 1, 2, 3]),
                same_node=random.random() < 0.7,
                exclusive=random.random() < 0.1,
                device_types=frozenset({f"g{random.choice(SIZES)}"}) if random.random() < 0.2 else None,
                warm_nodes=frozenset(random.sample(["m0", "m1", "m2"], random.randrange(3))),
                checkpointable=random.random() < 0.8,
                is_held=random.random() < 0.05,
                not_before_at=pool.now + random.choice([0.0, 0.0, 0.0, 500.0]),
                attained_seconds=random.choice([0.0, 5_000.0, 50_000.0]),
                array_id=None if array is None else f"array{array}",
                array_limit=array,
            )
        )


def let_time_pass(random: Random, pool: Pool) -> None:
    """Jobs end when they were expected to, or earlier or later; those asked to leave do so within their grace."""
    pool.now += random.choice([1.0, 60.0, 300.0, 900.0, 4_000.0])
    for job in list(pool.running.values()):
        is_due = job.expected_end_at <= pool.now or (job.stops_by_at is not None and job.stops_by_at <= pool.now)
        if random.random() < (0.8 if is_due else 0.05):
            pool.finish(job.job_id)
        elif random.random() < 0.1 and not job.is_stopping:
            pool.put_running(replace(job, expected_end_at=pool.now + 3_000.0, saved_at=pool.now))


def change_something(random: Random, pool: Pool) -> None:
    """A device that comes, goes or is drained; new terms; a job that is cancelled, held, released or moved."""
    event = random.randrange(5)
    waiting = sorted(pool.queued)
    if event == 0:
        pool.set_teams(random_team(random, random.choice(TEAMS), pool.now))
    elif event == 1:
        each = pool.devices[random.choice(sorted(pool.devices))]
        is_open, held = random.random() < 0.7, random.choice([0, 0, 3]) * GIB
        is_draining = not is_open and random.random() < 0.5
        pool.set_devices(replace(each, schedulable=is_open, draining=is_draining, held_bytes=held))
    elif event == 2 and len(pool.devices) < 12:
        gib = random.choice(SIZES)
        pool.set_devices(device(f"m{random.randrange(3)}/{len(pool.devices)}", gib, weight_micros=gib * 40_000))
    elif event == 3 and waiting:
        pool.cancel(random.choice(waiting))
    elif event == 4 and waiting:
        job = pool.queued[random.choice(waiting)]
        pool.submit(replace(job, is_held=random.random() < 0.5, rank=random.choice([None, 5.0])))


def busy_days(random: Random, steps: int) -> Iterator[Pool]:
    """The pool before each of so many decisions. The caller decides."""
    pool = busy_pool(random)
    submit_some(random, pool, 12)
    for _ in range(steps):
        yield pool
        let_time_pass(random, pool)
        submit_some(random, pool)
        if random.random() < 0.3:
            change_something(random, pool)
