"""Which pinned devices another job may use all the same: those whose holder does not have to wait longer for it."""

from orchestrator.domain.scheduling.facts import Footprint, Pin, PriorityClass
from orchestrator.domain.scheduling.lines import Waiting
from orchestrator.domain.scheduling.order import CLASS_RANKS, IDLE_LEVELS, WITHIN_LEVELS, Level
from orchestrator.domain.scheduling.overlay import Overlay
from orchestrator.domain.scheduling.shapes import Spot
from orchestrator.domain.scheduling.state import State
from orchestrator.domain.scheduling.tallies import by_type


def may_share_pinned(
    overlay: Overlay, state: State, waiting: Waiting, way: tuple[Spot, Footprint], level: Level, now: float
) -> dict[str, int]:
    """Offers of pinned devices: bytes on top of what is free there, below nothing where only a part may be used."""
    spot, footprint = way
    offers: dict[str, int] = {}
    for device_id, pin in overlay.pinned.items():
        if pin.job_id == waiting.job.job_id:
            continue
        room = state.rooms.devices[device_id]
        needed = spot.ask.needs_on(room)
        if needed is None or needed > room.free_bytes:
            continue
        seconds = by_type(footprint.seconds_by_type, room.device_type, float("inf"))
        if (
            now + seconds <= pin.at
            or goes_first(state, pin, waiting, level)
            or _gives_way(state, waiting, pin, level, now)
        ):
            offers[device_id] = 0
        else:
            spare = overlay.free_at(device_id, pin.at) - pin.bytes
            if spare >= needed:
                offers[device_id] = min(0, spare - room.free_bytes)
    return offers


def goes_first(state: State, pin: Pin, waiting: Waiting, level: Level) -> bool:
    """Whether the job is not held up by the holder: it is within its guarantee and the holder would borrow, or it has a
    better class in the same team."""
    holder = state.waiting[pin.job_id]
    if holder.job.team_id == waiting.job.team_id:
        return CLASS_RANKS[waiting.job.priority_class] < CLASS_RANKS[holder.job.priority_class]
    book = state.books[holder.job.team_id]
    borrows = book.rate_micros + (holder.shape.least_rate or 0) > book.terms.guarantee_micros
    return borrows and level in WITHIN_LEVELS and level not in IDLE_LEVELS


def _gives_way(state: State, waiting: Waiting, pin: Pin, level: Level, now: float) -> bool:
    """Whether the holder could have the job leave in time: it runs as idle and has checkpoints."""
    holder, rules = state.waiting[pin.job_id].job, state.rules
    if level not in IDLE_LEVELS or holder.priority_class is PriorityClass.IDLE or not rules.preemption:
        return False
    job = waiting.job
    recent = sum(at > now - rules.preemption_window_seconds for at in job.preempted_at)
    in_time = now + rules.least_run_seconds + rules.least_grace_seconds <= pin.at
    return job.checkpointable and recent < rules.most_preemptions and in_time
