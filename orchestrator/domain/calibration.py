"""What past attempts say about the next estimate: a margin for memory, and corrections for time. Pure.

Kinds of jobs are nested, from everything on a device type down to one base model with one method, quantization and
length. Each level starts from what the coarser one found and moves from there as far as its own observations carry, so
a kind that never ran borrows from its relatives, and without any data nothing changes. Relatives may only ask for more
memory: less is believed of a kind's own runs alone.

Memory is a matter of safety: an upper quantile of measured over predicted decides, in which each value counts only as
far as the next lower one bears it out. Time is a matter of the middle: the median decides.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import get_args

from orchestrator.domain.estimate_terms import UNCALIBRATED, Calibration, Correction
from orchestrator.domain.observations import ESTIMATORS, PHASES_OF_TERM, Observation
from orchestrator.domain.placement import DeviceKind, DeviceRoom
from orchestrator.domain.speed import DeviceSpeed, find_speed

UPPER_QUANTILE = 0.95
TOP_STEP = 1.1
"""A ratio above the median counts up to this many times the next lower one; a single one, times what is known."""
HEADROOM = 1.02
"""Over the quantile: resident sets of the same run differ by one or two percent (SmolLM2-135M on CPU)."""
RUNS_TO_RAISE = 0.5
RUNS_TO_LOWER = 4.0
"""Observations at which a level is half believed: soon when it asks for more memory, late when it asks for less."""
LOWEST_FACTOR, HIGHEST_FACTOR = 1.0, 2.0
"""Never less than what was predicted: runs of short rows say nothing of the longest that their plan allows."""
RAISE_PER_FAILURE = 0.1
"""A run out of memory says only that more was needed: the factor rises by at least this, times the share of such."""
FEWEST_STEPS = 5
"""Of an attempt that did not succeed: earlier its peak may still be to come."""

RUNS_TO_TRUST = 0.25
"""As above, for time: runs of one kind on one device type differ by a few percent, kinds by a factor."""
LARGEST_CORRECTION = 8.0
NARROWEST_SPREAD = 0.04
UNKNOWN_SPREAD = math.log(3.0)
"""Half a range on a logarithmic scale: what runs of the same job differ by at least, and what is said of a kind that
never ran."""
MAD_TO_RANGE = 3 * 1.4826
"""Three standard deviations from the median absolute deviation, for a bell curve."""
SHORTEST_SECONDS = 0.5
"""A term that was predicted to take less teaches nothing of its rate."""


@dataclass(frozen=True, kw_only=True)
class MemorySample:
    """Measured over predicted bytes; `censored` when it ran out of memory, so that the true ratio is higher."""

    ratio: float
    censored: bool = False


def calibrate(levels: Sequence[Sequence[Observation]]) -> Calibration:
    """`levels` hold observations from the coarsest level to the finest, the newest of each."""
    if not any(levels):
        return UNCALIBRATED
    samples = {
        method: [_sample_level(level, estimator) for level in levels] for method, estimator in ESTIMATORS.items()
    }
    corrections = {}
    for term in PHASES_OF_TERM:
        found = None
        for seen in levels:
            found = learn_correction(sample_seconds(seen, term), prior=found)
        if found is not None:
            corrections[term] = found
    return Calibration(
        memory_factors={method: _learn_levels(found) for method, found in samples.items() if any(found)},
        memory_runs=sum(len(found[-1]) for found in samples.values()),
        time_runs=len(sample_seconds(levels[-1], "training")),
        related_runs=len(levels[0]),
        corrections=corrections,
    )


def _sample_level(level: Sequence[Observation], estimator: int) -> list[MemorySample]:
    own = (seen for seen in level if seen.estimator == estimator)
    return [sample for seen in own if (sample := sample_memory(seen)) is not None]


def _learn_levels(levels: Sequence[Sequence[MemorySample]]) -> float:
    relatives = 1.0
    for level in levels[:-1]:
        relatives = max(1.0, learn_factor(level, prior=relatives))
    return learn_factor(levels[-1], prior=relatives)


def merge_calibrations(found: Iterable[Calibration]) -> Calibration:
    """Of a job that may go to any of several device types: the largest margin, and the times that are known best.

    One margin for all, because a footprint is by kind of device: it may be more than some type needs, and never less.
    """
    several = list(found)
    if not several:
        return UNCALIBRATED
    best = max(several, key=lambda one: (one.time_runs, one.related_runs))
    methods = {method for one in several for method in one.memory_factors}
    return replace(best, memory_factors={name: max(one.memory_factor(name) for one in several) for name in methods})


def merge_by_kind(rooms: Iterable[DeviceRoom], found: Mapping[str, Calibration]) -> dict[DeviceKind, Calibration]:
    """For each kind of device among `rooms`, what `found` holds of its device types."""
    types: dict[DeviceKind, set[str]] = {}
    for room in rooms:
        types.setdefault(room.kind, set()).add(room.device_type)
    return {kind: merge_calibrations(found[name] for name in sorted(names)) for kind, names in types.items()}


def choose_speeds(
    rooms: Iterable[DeviceRoom], speeds: Mapping[str, DeviceSpeed], found: Mapping[str, Calibration]
) -> dict[DeviceKind, DeviceSpeed]:
    """How fast each kind of device is: of several types among `rooms` the one whose times are known best, as in
    `merge_calibrations`; the catalogue's for a kind that is not there."""

    def known(name: str) -> tuple[int, int]:
        taught = found.get(name, UNCALIBRATED)
        return taught.time_runs, taught.related_runs

    best: dict[DeviceKind, str] = {}
    for kind, name in sorted({(room.kind, room.device_type) for room in rooms}):
        if kind not in best or known(name) > known(best[kind]):
            best[kind] = name
    return {kind: speeds[best[kind]] if kind in best else find_speed(kind) for kind in get_args(DeviceKind)}


def sample_memory(seen: Observation) -> MemorySample | None:
    """None for an attempt that shows nothing: without a prediction, without a peak, or over before its peak.

    One that went on from a checkpoint shows only that it ran out of memory: it did not try the longest rows first, and
    may have had none of them left.
    """
    if not seen.predicted_bytes:
        return None
    if seen.out_of_memory:
        return MemorySample(ratio=max(seen.measured_bytes, seen.reserved_bytes) / seen.predicted_bytes, censored=True)
    if seen.resumed or not seen.measured_bytes or not (seen.succeeded or seen.steps >= FEWEST_STEPS):
        return None
    return MemorySample(ratio=seen.measured_bytes / seen.predicted_bytes)


def sample_seconds(level: Sequence[Observation], term: str) -> list[float]:
    """Measured over predicted seconds of one term, of the attempts that went through it."""
    return [
        measured / predicted
        for seen in level
        if (predicted := seen.predicted_seconds.get(term, 0.0)) >= SHORTEST_SECONDS
        and (measured := seen.measured_seconds(term)) > 0
        and (seen.succeeded or (term == "training" and seen.steps >= FEWEST_STEPS))
    ]


def learn_factor(samples: Sequence[MemorySample], *, prior: float = 1.0) -> float:
    """The factor of one level, from that of the coarser one. Never falls when a ratio or the prior rises.

    One sample of any size, among whatever others, raises it at most as a sample of `TOP_STEP` times the next would.
    """
    known = [sample.ratio for sample in samples if not sample.censored]
    without = _learn_ratios(known, prior)
    failures = len(samples) - len(known)
    if not failures:
        return without
    at_least = [max(sample.ratio, without) * TOP_STEP for sample in samples if sample.censored]
    raised = without * (1 + RAISE_PER_FAILURE * failures / len(samples))
    return _bounded(max(raised, _learn_ratios([*known, *at_least], prior)))


def _learn_ratios(ratios: Sequence[float], prior: float) -> float:
    if not ratios:
        return prior
    ordered = _bear_out(sorted(ratios), prior)
    asked = HEADROOM * interpolate_quantile(ordered, UPPER_QUANTILE)
    half = RUNS_TO_RAISE if asked >= prior else RUNS_TO_LOWER
    return _bounded(prior + (asked - prior) * len(ordered) / (len(ordered) + half))


def _bear_out(ordered: Sequence[float], prior: float) -> list[float]:
    """From the median up, each ratio at most `TOP_STEP` times the one before: a few odd runs climb no higher than a few
    steps, and many runs alike do not need to climb. A single one leans on what is known already."""
    if len(ordered) == 1:
        return [min(ordered[0], TOP_STEP * prior)]
    trusted = (len(ordered) + 1) // 2
    found = list(ordered[:trusted])
    for ratio in ordered[trusted:]:
        found.append(min(ratio, TOP_STEP * found[-1]))
    return found


def _bounded(factor: float) -> float:
    return min(max(factor, LOWEST_FACTOR), HIGHEST_FACTOR)


def interpolate_quantile(ordered: Sequence[float], share: float) -> float:
    """Of values in rising order, at least one; between two of them in proportion."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def learn_correction(ratios: Sequence[float], *, prior: Correction | None = None) -> Correction | None:
    """The correction of one level, from that of the coarser one; None when nobody has seen anything.

    On a logarithmic scale, because half and double are equally wrong. An even number of ratios is judged together with
    what the coarser level says, so that one odd run of two is outvoted.
    """
    limit = math.log(LARGEST_CORRECTION)
    logs = [min(max(math.log(ratio), -limit), limit) for ratio in ratios if ratio > 0]
    if not logs:
        return None if prior is None else Correction(factor=prior.factor, spread=prior.spread, runs=0)
    count = len(logs)
    known = math.log(prior.factor) if prior is not None else 0.0
    middle = median(logs if count % 2 else [*logs, known])
    factor = math.exp(known + (middle - known) * count / (count + RUNS_TO_TRUST))
    scatter = median(abs(value - middle) for value in logs)
    own = min(max(NARROWEST_SPREAD, MAD_TO_RANGE * scatter) * (1 + 2 / count), UNKNOWN_SPREAD)
    belief = count**2 / (count**2 + 1)
    return Correction(factor=factor, spread=belief * own + (1 - belief) * UNKNOWN_SPREAD, runs=count)
