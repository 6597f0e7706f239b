"""The nodes of a packing experiment as arrays, so that a decision looks at all of them at once.

`free` is [nodes, slots]: the free thousandths of each GPU, -1 where a node has no such slot.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulation.openb import WHOLE_MILLI, TaskShape, TraceNode

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

UNLIMITED = 1 << 50
"""CPU and memory where they play no part."""


@dataclass(frozen=True, slots=True)
class Place:
    """A node and the slots of its GPUs that a task gets, none for a task without."""

    node: int
    slots: tuple[int, ...]


class Cluster:
    """`touched` lists the node of every task placed so far, so that scores know what has changed."""

    def __init__(self, nodes: Sequence[TraceNode], *, has_hosts: bool = True) -> None:
        slots = max(node.gpus for node in nodes)
        self.has_hosts = has_hosts
        self.free: Ints = np.full((len(nodes), slots), -1, dtype=np.int64)
        for at, node in enumerate(nodes):
            self.free[at, : node.gpus] = WHOLE_MILLI
        self.cpu: Ints = np.array([n.cpu_milli if has_hosts else UNLIMITED for n in nodes], dtype=np.int64)
        self.memory: Ints = np.array([n.memory_mib if has_hosts else UNLIMITED for n in nodes], dtype=np.int64)
        self.free_gpu: Ints = np.maximum(self.free, 0).sum(axis=1)
        self.models = [node.model for node in nodes]
        self.capacity_milli = int(self.free_gpu.sum())
        self.allocated_milli = 0
        self.touched: list[int] = []

    def allows(self, shape: TaskShape) -> Bools:
        """Per node, whether its GPU model is one that the task may have."""
        if not shape.models:
            return np.ones(len(self.models), dtype=bool)
        return np.array([model in shape.models for model in self.models], dtype=bool)

    def take(self, place: Place, shape: TaskShape) -> None:
        """Place a task."""
        self.cpu[place.node] -= shape.cpu_milli
        self.memory[place.node] -= shape.memory_mib
        for slot in place.slots:
            self.free[place.node, slot] -= shape.gpu_milli
        self.free_gpu[place.node] -= shape.total_milli
        self.allocated_milli += shape.total_milli
        self.touched.append(place.node)
