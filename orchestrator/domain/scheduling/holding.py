"""Locks and pins over the passes: taken over from the last one while they hold, and new pins for long waiters."""

from dataclasses import replace

from orchestrator.domain.scheduling.context import Pass
from orchestrator.domain.scheduling.facts import Lock, Pin
from orchestrator.domain.scheduling.lines import Waiting
from orchestrator.domain.scheduling.order import IDLE_LEVELS, Level
from orchestrator.domain.scheduling.pins import find_pins, moment_of
from orchestrator.domain.scheduling.shapes import Shape
from orchestrator.domain.scheduling.tallies import has_means

SLIP_SECONDS = 60.0
"""How late a pinned device may become before others are looked at: estimates move with every report."""


class Holding:
    """The holders of one pass."""

    def __init__(self, found: Pass) -> None:
        self._found = found
        self._unpinnable: set[Shape] = set()

    def take_over_locks(self) -> None:
        """Keep each lock until its time is over, its job has started or is gone, or its device is not to be had."""
        found, state = self._found, self._found.state
        by_job: dict[str, list[Lock]] = {}
        for lock in state.locks:
            device = state.devices.get(lock.device_id)
            is_good = device is not None and device.schedulable and lock.until_at > found.now
            if is_good and lock.job_id in state.waiting:
                by_job.setdefault(lock.job_id, []).append(lock)
        if not by_job:
            return
        leaving = [state.running[job_id] for job_id in state.stopping]
        for job_id, locks in by_job.items():
            found.overlay.lock(job_id, tuple(locks), [job for job in leaving if job.stopping_for == job_id])
            waiting = state.waiting[job_id]
            found.tally(waiting.job.team_id).promise(waiting.shape.least_rate or 0, 0)

    def take_over_pins(self) -> None:
        """Holders keep their devices while these are the soonest that estimates promise; nobody may push them back."""
        by_job: dict[str, list[Pin]] = {}
        for pin in self._found.state.pins:
            by_job.setdefault(pin.job_id, []).append(pin)
        kept = {job_id: tuple(pins) for job_id, pins in by_job.items() if self._keeps(job_id, pins)}
        for job_id, pins in kept.items():
            self._found.overlay.pin(job_id, pins)
        for job_id, pins in kept.items():
            self._refresh(self._found.state.waiting[job_id], pins)

    def _keeps(self, job_id: str, pins: list[Pin]) -> bool:
        found, waiting = self._found, self._found.state.waiting.get(job_id)
        if waiting is None or len(pins) != waiting.job.replicas or not found.is_ready(waiting):
            return False
        devices = [found.state.devices.get(pin.device_id) for pin in pins]
        is_taken = any(pin.device_id in found.overlay.pinned for pin in pins)
        if is_taken or not all(device is not None and device.schedulable for device in devices):
            return False
        tally = found.tally(waiting.job.team_id)
        least = waiting.shape.least_rate
        if least is None or least > tally.to_ceiling:
            return False
        return has_means(waiting.job, waiting.shape.spots, tally.budget_left)

    def _refresh(self, waiting: Waiting, pins: tuple[Pin, ...]) -> None:
        """Same devices at the same moment, until it has slipped by a minute; then the soonest by today's estimates."""
        overlay, job_id = self._found.overlay, waiting.job.job_id
        offers = overlay.own_offers(job_id)
        rooms = self._found.state.rooms.devices
        at = max(moment_of(rooms[pin.device_id], pin.bytes, offers, overlay, self._found.now) for pin in pins)
        promised = max(pin.at for pin in pins)
        if promised <= at <= promised + SLIP_SECONDS:
            return
        best = tuple(replace(pin, at=at) for pin in pins)
        if at > promised:
            moved = self.soonest(waiting)
            best = moved if moved and moved[0].at < at else best
        overlay.unpin(job_id)
        overlay.pin(job_id, best)

    def has_place(self, level: Level) -> bool:
        """Whether one more job of this level may become a holder."""
        return level not in IDLE_LEVELS and len(self._found.overlay.pins) < self._found.rules.most_holders

    def may_pin(self, waiting: Waiting) -> bool:
        """Whether the job has waited long enough, and could have room one day."""
        waited = self._found.now - waiting.job.queued_at
        return waited > self._found.rules.pin_after_seconds and waiting.shape not in self._unpinnable

    def try_pin(self, waiting: Waiting, level: Level) -> None:
        """Let a long waiter hold the devices that it will get first."""
        job_id = waiting.job.job_id
        if job_id in self._found.overlay.pins or not self.has_place(level) or not self.may_pin(waiting):
            return
        if not any(self._found.affordable(waiting, level)):
            return
        pins = self.soonest(waiting)
        if pins:
            self._found.overlay.pin(job_id, pins)
        else:
            self._unpinnable.add(waiting.shape)

    def soonest(self, waiting: Waiting) -> tuple[Pin, ...]:
        """The pins of the footprint that can start soonest, on device types within the team's means."""
        found = self._found
        best: tuple[Pin, ...] = ()
        for spot, _, types in found.affordable(waiting, Level.BORROWING):
            ask = found.ask_of(waiting, spot, types)
            pins = find_pins(waiting.job.job_id, ask, found.state.rooms, found.overlay, found.now)
            if pins and (not best or pins[0].at < best[0].at):
                best = pins
        return best
