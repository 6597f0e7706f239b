"""What would let a waiting job start: another device type, fewer bytes, less time, several nodes, or a job's end.

Read at the end of a pass; each hint was tried on the rooms as they are then.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from orchestrator.domain.scheduling.context import Pass
from orchestrator.domain.scheduling.holding import Holding
from orchestrator.domain.scheduling.lines import Waiting
from orchestrator.domain.scheduling.order import Level
from orchestrator.domain.scheduling.rooms import Ask


class HintCode(StrEnum):
    OTHER_TYPE = "other_device_type"
    SMALLER = "smaller_footprint"
    SHORTER = "shorter"
    SEVERAL_NODES = "several_nodes"
    AFTER_JOB = "after_job"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hint:
    """`facts` fill the sentence: device ids, bytes, seconds, moments."""

    code: HintCode
    facts: Mapping[str, Any]


def find_hints(found: Pass, waiting: Waiting) -> tuple[Hint, ...]:
    """What would change the job's wait; empty when room is not what it waits for."""
    if not found.is_ready(waiting):
        return ()
    for spot, _, types in found.affordable(waiting, Level.BORROWING):
        ask = found.ask_of(waiting, spot, types)
        return tuple(_hints(found, waiting, ask))
    ask = found.ask_of(waiting, waiting.shape.spots[0], None)
    return tuple(_other_types(found, ask))


def _hints(found: Pass, waiting: Waiting, ask: Ask) -> Iterator[Hint]:
    yield from _other_types(found, ask)
    yield from _smaller(found, ask)
    yield from _shorter(found, waiting, ask)
    if ask.replicas > 1 and ask.same_node and found.policy.choose(found.state.rooms, replace(ask, same_node=False)):
        yield Hint(code=HintCode.SEVERAL_NODES, facts={})
    yield from _after(found, waiting)


def _other_types(found: Pass, ask: Ask) -> Iterator[Hint]:
    if ask.device_types is None:
        return
    rooms = found.state.rooms
    others = sorted({room.device_type for room in rooms.devices.values()} - ask.device_types)
    fitting = [other for other in others if found.policy.choose(rooms, replace(ask, device_types=frozenset({other})))]
    if fitting:
        yield Hint(code=HintCode.OTHER_TYPE, facts={"device_types": fitting})


def _smaller(found: Pass, ask: Ask) -> Iterator[Hint]:
    """The most bytes that one replica could have now. Gangs are left out: their devices would have to agree."""
    if ask.replicas > 1 or ask.exclusive:
        return
    rooms = [
        room
        for room in found.state.rooms.devices.values()
        if ask.needs_on(room) is not None and 0 < ask.free_on(room) < ask.bytes_by_kind[room.kind]
    ]
    best = max(rooms, key=lambda room: (ask.free_on(room), room.device_id), default=None)
    if best is not None:
        yield Hint(code=HintCode.SMALLER, facts={"bytes": ask.free_on(best), "device": best.device_id})


def _shorter(found: Pass, waiting: Waiting, ask: Ask) -> Iterator[Hint]:
    """A pinned device that has room until its holder gets it."""
    for device_id, pin in sorted(found.overlay.pinned.items(), key=lambda item: (-item[1].at, item[0])):
        room = found.state.rooms.devices[device_id]
        needed = ask.needs_on(room)
        is_usable = pin.job_id != waiting.job.job_id and needed is not None and needed <= room.free_bytes
        if is_usable and ask.replicas == 1 and pin.at > found.now:
            yield Hint(code=HintCode.SHORTER, facts={"device": device_id, "seconds": pin.at - found.now})
            return


def _after(found: Pass, waiting: Waiting) -> Iterator[Hint]:
    """The job whose end gives the last of the room that the job can have soonest."""
    pins = found.overlay.pins.get(waiting.job.job_id) or Holding(found).soonest(waiting)
    if not pins:
        return
    at = max(pin.at for pin in pins)
    for pin in pins:
        for job_id in sorted(found.state.running_on.get(pin.device_id, ())):
            if found.overlay.end_of(job_id) == at:
                yield Hint(code=HintCode.AFTER_JOB, facts={"job_id": job_id, "device": pin.device_id, "at": at})
                return
