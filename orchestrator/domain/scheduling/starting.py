"""Starting a job: the first of its footprints that fits, on open devices, else on pinned ones that it may share."""

from dataclasses import replace

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.actions import Start
from orchestrator.domain.scheduling.context import Pass
from orchestrator.domain.scheduling.facts import Footprint, Hold
from orchestrator.domain.scheduling.lines import Waiting
from orchestrator.domain.scheduling.order import IDLE_LEVELS, Level
from orchestrator.domain.scheduling.shapes import Spot
from orchestrator.domain.scheduling.sharing import may_share_pinned
from orchestrator.domain.scheduling.tallies import by_type


def try_start(found: Pass, waiting: Waiting, level: Level) -> bool:
    """Start the job if one of its footprints fits within share and budget."""
    for spot, footprint, types in found.affordable(waiting, level):
        device_ids = _find_devices(found, waiting, (spot, footprint), types, level)
        if device_ids is not None:
            _start(found, waiting, (spot, footprint), device_ids, level)
            return True
    return False


def try_start_locked(found: Pass, waiting: Waiting, level: Level) -> bool:
    """The same for a job that devices are locked for: its share is promised already."""
    tally, rate = found.tally(waiting.job.team_id), waiting.shape.least_rate or 0
    tally.promise(-rate, 0)
    if try_start(found, waiting, level):
        return True
    tally.promise(rate, 0)
    return False


def _find_devices(
    found: Pass, waiting: Waiting, way: tuple[Spot, Footprint], types: frozenset[str] | None, level: Level
) -> tuple[str, ...] | None:
    spot = way[0]
    ask = found.ask_of(waiting, spot, types)
    if ask.offers or not ((spot, None) in found.full or (spot, types) in found.full):
        device_ids = found.policy.choose(found.state.rooms, ask)
        if device_ids is not None:
            return device_ids
        if not ask.offers:
            found.full.add((spot, types))
    if not found.overlay.pinned:
        return None
    shared = may_share_pinned(found.overlay, found.state, waiting, way, level, found.now)
    if not shared:
        return None
    return found.policy.choose(found.state.rooms, replace(ask, offers={**shared, **ask.offers}))


def _start(
    found: Pass, waiting: Waiting, way: tuple[Spot, Footprint], device_ids: tuple[str, ...], level: Level
) -> None:
    job, tally, (spot, footprint) = waiting.job, found.tally(waiting.job.team_id), way
    rooms = [found.state.rooms.devices[device_id] for device_id in device_ids]
    holds = tuple(Hold(device_id=room.device_id, bytes=spot.ask.needs_on(room) or 0) for room in rooms)
    rate = sum(found.state.rate_of(hold) for hold in holds)
    is_borrowing = rate > tally.to_guarantee
    seconds = by_type(footprint.seconds_by_type, rooms[0].device_type, 0.0)
    is_free = found.budget(waiting, level) is None
    cost = 0 if is_free else by_type(footprint.cost_usd_micros, rooms[0].device_type, 0)
    found.let_go(job.job_id)
    found.overlay.start(holds, found.now + seconds)
    tally.promise(rate, cost)
    tally.charge(job.user_id, rate, seconds, found.rules)
    found.take(waiting)
    if job.array_id is not None:
        found.arrays[job.array_id] = found.arrays.get(job.array_id, 0) + 1
    found.starts.append(
        Start(
            job_id=job.job_id,
            footprint=footprint,
            holds=holds,
            rate_micros=rate,
            is_borrowing=is_borrowing,
            runs_as=PriorityClass.IDLE if level in IDLE_LEVELS else job.priority_class,
        )
    )
