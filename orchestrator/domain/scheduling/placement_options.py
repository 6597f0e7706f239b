"""Placement policies beside the default: to compare with, and for pools where somebody knows better.

All of them look at every device that fits. `fgd` is worth a try where jobs of few sizes share devices of one size;
`spread` and `random` lose 2 to 34 per cent of the pool to holes (scheduling study, 1.5 to 1.7).
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.domain.scheduling.rooms import Ask, DeviceRoom, NodeRoom, Rooms

Key = tuple[float | int | str, ...]
GIB = 1024**3


class _Ranked(ABC):
    """Takes the devices with the lowest keys; a gang the node whose last device for it has the lowest, if one has
    all."""

    @abstractmethod
    def key(self, room: DeviceRoom, ask: Ask) -> Key:
        """The order of devices, best first; ends with something unique."""

    def choose(self, rooms: Rooms, ask: Ask) -> tuple[str, ...] | None:
        ranked = sorted(rooms.fitting(ask), key=lambda room: self.key(room, ask))
        if ask.replicas == 1:
            return (ranked[0].device_id,) if ranked else None
        by_node: dict[tuple[str, str], list[DeviceRoom]] = {}
        by_type: dict[tuple[str, str], list[DeviceRoom]] = {}
        for room in ranked:
            by_node.setdefault((room.device_type, room.node.name), []).append(room)
            by_type.setdefault((room.device_type, ""), []).append(room)
        for groups in (by_node,) if ask.same_node else (by_node, by_type):
            whole = [found[: ask.replicas] for found in groups.values() if len(found) >= ask.replicas]
            if whole:
                best = min(whole, key=lambda found: self.key(found[-1], ask))
                return tuple(room.device_id for room in best)
        return None


class BestFit(_Ranked):
    """The least left over on the device, whatever its size."""

    def key(self, room: DeviceRoom, ask: Ask) -> Key:
        return ask.free_on(room), room.node.free_bytes, room.device_id


class FirstFit(_Ranked):
    """The first device by id."""

    def key(self, room: DeviceRoom, ask: Ask) -> Key:
        return (room.device_id,)


class Spread(_Ranked):
    """The emptiest node, and its emptiest device."""

    def key(self, room: DeviceRoom, ask: Ask) -> Key:
        return -room.node.free_bytes, -ask.free_on(room), room.device_id


class RandomDevice(_Ranked):
    """Any device; which one depends on the ask and on what is free, so that a decision can be made again."""

    def key(self, room: DeviceRoom, ask: Ask) -> Key:
        seen = f"{room.device_id} {room.free_bytes} {sorted(ask.bytes_by_kind.items())} {ask.replicas}"
        return hashlib.sha256(seen.encode()).hexdigest(), room.device_id


@dataclass(frozen=True, slots=True)
class Expected:
    """A class of jobs: its bytes per replica, how many replicas, and what share of jobs it is."""

    bytes: int
    replicas: int
    share: float


LORA_MIX = (
    Expected(13 * GIB // 2, 1, 0.24),
    Expected(10 * GIB, 1, 0.20),
    Expected(14 * GIB, 1, 0.15),
    Expected(19 * GIB, 1, 0.14),
    Expected(28 * GIB, 1, 0.10),
    Expected(38 * GIB, 1, 0.09),
    Expected(54 * GIB, 1, 0.05),
    Expected(74 * GIB, 2, 0.03),
)
"""What is expected of the next job when nothing better is known: the made-up mix of the churn benchmark."""


class Fragmentation(_Ranked):
    """The place that strands least of a node for a random next job (FGD: Weng et al., USENIX ATC'23).

    Costs are rounded to a tenth of a device and ties go to the fullest node, which is what makes the rule work
    (scheduling study, 1.5).
    """

    def __init__(self, mix: Sequence[Expected] = LORA_MIX) -> None:
        self._mix = tuple(mix)

    def key(self, room: DeviceRoom, ask: Ask) -> Key:
        needed = ask.needs_on(room) or 0
        before = self._fragments(room.node, {})
        after = self._fragments(room.node, {room.device_id: needed})
        cost = round(10 * (after - before) / room.usable_bytes)
        return cost, room.node.free_bytes, ask.free_on(room), room.device_id

    def _fragments(self, node: NodeRoom, taken: dict[str, int]) -> float:
        """Bytes of the node that a random next job could not use."""
        frees = [max(room.free_bytes - taken.get(room.device_id, 0), 0) for room in node.devices if room.is_open]
        stranded = 0.0
        for each in self._mix:
            able = sum(free >= each.bytes for free in frees)
            lost = sum(frees) if able < each.replicas else sum(free for free in frees if free < each.bytes)
            stranded += each.share * lost
        return stranded
