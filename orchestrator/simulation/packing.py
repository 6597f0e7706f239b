"""Packing arrivals onto an empty cluster: the experiment of the FGD paper (Weng et al., USENIX ATC'23).

Tasks only arrive. They come in the order of the list, shuffled with a seed, and then by draws from it with replacement,
until the next would push what was asked for beyond `arrive` times the capacity. A task that finds no place is dropped.
What is measured is the share of all GPUs allocated when 90, 100 and 130 per cent of the capacity has been asked for.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.simulation.openb import TaskShape, TraceNode
from orchestrator.simulation.packing_cluster import Cluster
from orchestrator.simulation.packing_rules import make_rule

MARKS = (90, 100, 130)
"""Per cent of the capacity asked for at which the paper's tables are read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """`allocated` is per cent of all GPUs at each mark that was reached."""

    seed: int
    allocated: dict[int, float]
    arrived: int
    placed: int


def arrivals(shapes: Sequence[TaskShape], *, capacity_milli: int, arrive: float, seed: int) -> Iterator[TaskShape]:
    """The tasks in their order. Ends before the first that goes beyond `arrive` times the capacity."""
    source = random.Random(seed)
    order = list(shapes)
    source.shuffle(order)
    asked = 0
    position = 0
    while True:
        shape = order[position] if position < len(order) else source.choice(shapes)
        position += 1
        asked += shape.total_milli
        if asked > arrive * capacity_milli:
            return
        yield shape


def pack(
    nodes: Sequence[TraceNode],
    shapes: Sequence[TaskShape],
    *,
    policy: str,
    seed: int,
    arrive: float = 1.3,
    gpu_only: bool = False,
) -> Packed:
    """One run. With `gpu_only` CPU and memory play no part and tasks without GPUs are left out.

    Raises KeyError for an unknown policy and ValueError when no task asks for a GPU.
    """
    used = [_only_gpu(shape) for shape in shapes if shape.gpus] if gpu_only else list(shapes)
    if not any(shape.gpus for shape in used):
        raise ValueError("no task asks for a GPU")
    cluster = Cluster(nodes, has_hosts=not gpu_only)
    rule = make_rule(policy, cluster, used, seed=seed)
    marks = [mark for mark in MARKS if mark < 100 * arrive]
    allocated: dict[int, float] = {}
    asked = arrived = placed = 0
    for shape in arrivals(used, capacity_milli=cluster.capacity_milli, arrive=arrive, seed=seed):
        while marks and 100 * (asked + shape.total_milli) > marks[0] * cluster.capacity_milli:
            allocated[marks.pop(0)] = 100 * cluster.allocated_milli / cluster.capacity_milli
        asked += shape.total_milli
        arrived += 1
        place = rule.choose(shape)
        if place is not None:
            cluster.take(place, shape)
            placed += 1
    for mark in (*marks, *(mark for mark in MARKS if mark == round(100 * arrive))):
        allocated[mark] = 100 * cluster.allocated_milli / cluster.capacity_milli
    return Packed(seed=seed, allocated=allocated, arrived=arrived, placed=placed)


def _only_gpu(shape: TaskShape) -> TaskShape:
    return TaskShape(cpu_milli=0, memory_mib=0, gpus=shape.gpus, gpu_milli=shape.gpu_milli, models=shape.models)
