"""What several devices change in the recording of one: DDP adds buckets, FSDP spreads what has parameters behind it.

FSDP is full sharding, a unit a layer: a layer is gathered for its forward and again for its backward, while its
successor is fetched already; gradients are whole for as long as their layer's backward runs.
"""

from collections import defaultdict

from workers.estimator.depth import Recording
from workers.estimator.request import Devices
from workers.estimator.tracker import Born

_SHARDED = frozenset({"base_weights", "quantization_constants", "adapters", "gradients", "optimizer"})
_STARTS = frozenset({"step", "evaluation"})
"""Sections in which the root's own parameters are gathered."""
_STORED = frozenset({"base_weights", "quantization_constants", "adapters"})


def shard(recording: Recording, devices: Devices) -> Recording:
    """The stream of one of these devices."""
    if devices.sharding == "ddp":
        return _add_buckets(recording)
    if devices.sharding == "fsdp":
        return _spread(recording, devices.count)
    return recording


def _add_buckets(recording: Recording) -> Recording:
    """DDP copies gradients into buckets of as many bytes, made once (torch, Reducer, gradient_as_bucket_view off)."""
    start = next(index for index, (_, (name, _)) in enumerate(recording.marks) if name == "step")
    place = recording.marks[start][0]
    births = list(recording.births)
    sizes: dict[tuple[int, int], int] = defaultdict(int)
    steps = [position for position, (name, _) in recording.marks if name == "step"]
    for event in recording.events[place : steps[1]]:
        if event >= 0 and births[event].kind == "gradients":
            sizes[births[event].owner, 0] += births[event].size_bytes
    added = [Born(size, "gradients", owner) for (owner, _), size in sizes.items()]
    numbers = list(range(len(births), len(births) + len(added)))
    marks = [(at + len(added) * (index >= start), label) for index, (at, label) in enumerate(recording.marks)]
    events = recording.events[:place] + numbers + recording.events[place:]
    return Recording(events, births + added, marks, recording.flops)


def _spread(recording: Recording, count: int) -> Recording:
    """Divide what is sharded; add the whole layer, and its neighbour's, in the sections that work with it."""
    births = [
        born._replace(size_bytes=-(-born.size_bytes // count)) if born.kind in _SHARDED else born
        for born in recording.births
    ]
    whole, gradients = _measure_layers(recording)
    events: list[int] = []
    marks: list[tuple[int, tuple[str, int]]] = []
    held: list[int] = []
    ends = [start for start, _ in recording.marks[1:]] + [len(recording.events)]
    for (start, label), end in zip(recording.marks, ends, strict=True):
        name, layer = label
        marks.append((len(events), label))
        passing: list[int] = []
        if name in {"forward", "backward"}:
            while len(held) > 1:
                events.append(~held.pop(0))
            held.append(_give_birth(births, events, Born(whole[layer], "base_weights", layer)))
            if name == "backward" and gradients[layer]:
                passing.append(_give_birth(births, events, Born(gradients[layer], "gradients", layer)))
        elif name in {"clip", *_STARTS}:
            events.extend(~number for number in held)
            held = []
            if name in _STARTS:
                held.append(_give_birth(births, events, Born(whole[-1], "base_weights", -1)))
        events.extend(recording.events[start:end])
        events.extend(~number for number in passing)
    return Recording(events, births, marks, recording.flops)


def _give_birth(births: list[Born], events: list[int], born: Born) -> int:
    births.append(born)
    events.append(len(births) - 1)
    return len(births) - 1


def _measure_layers(recording: Recording) -> tuple[dict[int, int], dict[int, int]]:
    """Bytes of each layer's parameters and of its gradients in one step; -1 is what is in no layer."""
    whole: dict[int, int] = defaultdict(int)
    gradients: dict[int, int] = defaultdict(int)
    second = [position for position, (name, _) in recording.marks if name == "step"][1]
    for event in recording.events[:second]:
        if event >= 0:
            born = recording.births[event]
            if born.kind in _STORED:
                whole[born.owner] += born.size_bytes
            elif born.kind == "gradients":
                gradients[born.owner] += born.size_bytes
    return whole, gradients
