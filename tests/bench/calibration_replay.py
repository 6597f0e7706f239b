"""What learning is worth: a history of jobs replayed, each sized by what the ones before it taught.

    python -m tests.bench.calibration_replay [--jobs 400] [--seed 7]

The truth is made up, and stated here. A pool of one device type runs 12 kinds of jobs of 3 families, some often and
some rarely (Zipf, exponent 1). The memory that a kind really takes is 0.85 to 1.25 times what is predicted (uniform,
fixed for the kind), and each run differs from that by 1.5 percent (normal). Time is off by a factor of its own per kind
(log-normal, sigma 0.25, around a device that is 1.8 times slower than the catalogue says), and 3 percent per run.
One run in 25 is odd: it takes 3 to 20 times the time, and its measurement says 1.5 to 6 times the memory (a neighbour,
a changed file); an odd run is not scored, since nobody can predict it, but it is learned from like any other. A job
that needs more than was reserved runs out of memory and leaves what a real one would: that it did, and its reservation.

Beside it the negative control: the same history with the measurements of each job shuffled among all, so that there is
nothing to learn about a kind. Only what is common to the device type may then get better.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from statistics import mean, median

from orchestrator.domain.calibration import calibrate
from orchestrator.domain.estimate_terms import UNCALIBRATED
from orchestrator.domain.observations import JobKind, Observation
from orchestrator.store.observations import LEVELS, RECENT
from tests.support.facts import NOW
from tests.support.observed import make_observation

KINDS = 12
FAMILIES = 3
RUN_NOISE, TIME_NOISE = 0.015, 0.03
ODD_SHARE = 1 / 25
PREDICTED_BYTES = 10 * 2**30
PREDICTED_SECONDS = 600.0
DEVICE_SLOWNESS, KIND_SIGMA = 1.8, 0.25
BLOCKS = ((0, 25), (25, 50), (50, 100), (100, 200), (200, None))


@dataclass(frozen=True, kw_only=True)
class Run:
    """What really happens: measured over predicted."""

    kind: JobKind
    memory: float
    time: float
    odd: bool


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of one job: the error of its told time, the margin over what it needed, and whether it ran out of memory."""

    time_error: float
    spare: float
    out_of_memory: bool
    of_known_kind: bool


def make_history(jobs: int, *, seed: int, odd_share: float) -> list[Run]:
    """The same seed gives the same runs; with another share of odd ones, only these differ."""
    source, odd_source = random.Random(seed), random.Random(seed + 1)
    kinds = [
        JobKind(
            base_model=f"model-{number}",
            family=f"family-{number % FAMILIES}",
            method="supervised",
            quantization="none",
            length_tokens=1024,
            device_type="gpu",
        )
        for number in range(KINDS)
    ]
    memory = [source.uniform(0.85, 1.25) for _ in kinds]
    time = [DEVICE_SLOWNESS * source.lognormvariate(0.0, KIND_SIGMA) for _ in kinds]
    runs = []
    for _ in range(jobs):
        number = source.choices(range(KINDS), weights=[1 / (n + 1) for n in range(KINDS)])[0]
        run = Run(
            kind=kinds[number],
            memory=memory[number] * source.gauss(1.0, RUN_NOISE),
            time=time[number] * source.gauss(1.0, TIME_NOISE),
            odd=False,
        )
        odd, more_memory, more_time = odd_source.random(), odd_source.uniform(1.5, 6.0), odd_source.uniform(3.0, 20.0)
        if odd < odd_share:
            run = replace(run, memory=run.memory * more_memory, time=run.time * more_time, odd=True)
        runs.append(run)
    return runs


def shuffle_measurements(history: Sequence[Run], *, seed: int) -> list[Run]:
    """The negative control: every job keeps its kind and gets another job's measurement."""
    others = list(history)
    random.Random(seed + 2).shuffle(others)
    return [replace(other, kind=run.kind) for run, other in zip(history, others, strict=True)]


def replay(history: Sequence[Run], *, learns: bool = True) -> list[Score | None]:
    """Size, run and learn from each job in its turn; None for odd ones, which are not scored."""
    seen: list[Observation] = []
    scores: list[Score | None] = []
    for number, run in enumerate(history):
        levels = [_like(seen, run.kind, level) for level in LEVELS]
        known = calibrate(levels) if learns else UNCALIBRATED
        reserved = known.memory_factor("closed_form") * PREDICTED_BYTES
        correction = known.corrections.get("training")
        told = PREDICTED_SECONDS * (correction.factor if correction else 1.0)
        died = run.memory * PREDICTED_BYTES > reserved and not run.odd
        score = Score(
            time_error=abs(run.time * PREDICTED_SECONDS / told - 1),
            spare=reserved / (run.memory * PREDICTED_BYTES) - 1,
            out_of_memory=died,
            of_known_kind=known.memory_runs >= 3,
        )
        scores.append(None if run.odd else score)
        seen.append(_observe(run, number, reserved_bytes=int(reserved), died=died))
    return scores


def _like(seen: Sequence[Observation], kind: JobKind, level: tuple[str, ...]) -> list[Observation]:
    """As the store reads them: the newest of a level, newest first."""
    found = [one for one in reversed(seen) if all(getattr(one.kind, name) == getattr(kind, name) for name in level)]
    return found[:RECENT]


def _observe(run: Run, number: int, *, reserved_bytes: int, died: bool) -> Observation:
    measured = reserved_bytes if died else int(run.memory * PREDICTED_BYTES)
    return make_observation(
        attempt_id=f"attempt-{number}",
        kind=run.kind,
        ended_at=NOW + timedelta(minutes=number),
        succeeded=not died,
        out_of_memory=died,
        steps=1 if died else 100,
        predicted_bytes=PREDICTED_BYTES,
        reserved_bytes=reserved_bytes,
        measured_bytes=measured,
        predicted_seconds={"training": PREDICTED_SECONDS},
        phase_seconds={"training": 0.0 if died else run.time * PREDICTED_SECONDS},
    )


def summarize(name: str, scores: Sequence[Score | None]) -> list[str]:
    """A row of the table for each block of jobs, and one for kinds that ran three times or more before."""
    rows = []
    for first, last in BLOCKS:
        block = [score for score in scores[first:last] if score is not None]
        if block:
            rows.append(_row(name, f"{first + 1} to {min(last or len(scores), len(scores))}", block))
    known = [score for score in scores if score is not None and score.of_known_kind]
    if known:
        rows.append(_row(name, "kinds run 3+ times", known))
    return rows


def _row(name: str, which: str, block: Sequence[Score]) -> str:
    died = mean(score.out_of_memory for score in block)
    time_error = median(score.time_error for score in block)
    spare = median(score.spare for score in block)
    return f"| {name} | {which} | {len(block)} | {100 * time_error:.1f} % | {100 * died:.1f} % | {100 * spare:+.1f} % |"


def print_tables(*, jobs: int, seed: int) -> None:
    plain = make_history(jobs, seed=seed, odd_share=0.0)
    odd = make_history(jobs, seed=seed, odd_share=ODD_SHARE)
    print("| history | jobs | scored | median error of time | out of memory | median spare memory |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, scores in {
        "nothing learned": replay(plain, learns=False),
        "learning": replay(plain),
        "learning, one run in 25 odd": replay(odd),
        "control: measurements shuffled": replay(shuffle_measurements(plain, seed=seed)),
    }.items():
        print("\n".join(summarize(name, scores)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Replay a made-up history through the calibration.")
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    print_tables(jobs=asked.jobs, seed=asked.seed)


if __name__ == "__main__":
    main()
