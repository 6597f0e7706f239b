"""Victims of a group of starters, found team by team in their order, and only as far as somebody needs.

Victims are ordered by class, then by team (the furthest above its share first), so whoever is found among the first
teams is better than anybody further on.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.context import Pass
from orchestrator.domain.scheduling.device_index import BinKey
from orchestrator.domain.scheduling.evictions import Eviction, choose_eviction, scopes_around
from orchestrator.domain.scheduling.order import WITHIN_LEVELS
from orchestrator.domain.scheduling.preemption import Starter, Victim, as_victim, borrowed_share
from orchestrator.domain.scheduling.rooms import Ask, DeviceRoom
from orchestrator.domain.scheduling.shapes import Shape

MOST_RUNNING = 1_000
"""Where more jobs run, nobody looks for victims among those who are spared, and a guarantee waits for them to have run
their least time; nor does anybody move. A bound of caution: both look at what runs, once a pass."""


class Hunt:
    """`spent` are the shapes that no victims of this group can make room for, as long as nobody is asked to leave."""

    def __init__(self, found: Pass, starter: Starter, teams: Iterable[str]) -> None:
        self._found = found
        self._starter = starter
        self._may_ask_spared = starter.level in WITHIN_LEVELS and len(found.state.running) <= MOST_RUNNING
        self._blocks = self._in_blocks(list(teams))
        self._on: dict[str, list[Victim]] = {}
        self._bytes_on: dict[str, int] = {}
        self._potential: dict[BinKey, int] | None = None
        self.spent: set[Shape] = set()

    def choose(self, starter: Starter, ask: Ask) -> Eviction | None:
        """The best eviction for this starter of the group; None if there is none."""
        if starter.over_micros > 0 or ask.replicas > 1:
            self.load_all()
        if self._potential is not None and not self.may_hold(ask):
            return None
        eviction = self._choose_around(starter, ask, list(self._on))
        while eviction is None:
            block = next(self._blocks, None)
            if block is None:
                self._weigh()
                return None
            eviction = self._choose_around(starter, ask, self._load(block))
        return eviction

    def load_all(self) -> dict[BinKey, int]:
        """Find all victims at once. By bin, the most bytes that a device would have if all of them left."""
        for block in self._blocks:
            self._load(block)
        return self._weigh()

    def may_hold(self, ask: Ask) -> bool:
        """Whether some device would have the bytes for one replica if all victims left. Needs `load_all`."""
        assert self._potential is not None
        return any(needed <= most for key, most in self._potential.items() if (needed := ask.needs_in(key)) is not None)

    def _weigh(self) -> dict[BinKey, int]:
        if self._potential is not None:
            return self._potential
        self._potential = {}
        for device_id, size_bytes in self._bytes_on.items():
            room = self._found.state.rooms.devices.get(device_id)
            if room is not None:
                key = (room.usable_bytes, room.device_type, room.kind)
                self._potential[key] = max(self._potential.get(key, 0), room.free_bytes + size_bytes)
        return self._potential

    def _choose_around(self, starter: Starter, ask: Ask, device_ids: list[str]) -> Eviction | None:
        rooms = self._found.state.rooms
        if ask.replicas == 1 and starter.over_micros <= 0:
            device_ids = [device_id for device_id in device_ids if self._may_fit(ask, device_id)]
        scopes = (scope for scope in scopes_around(rooms, starter, ask, device_ids) if self._may_hold_gang(scope, ask))
        return choose_eviction(scopes, starter, ask, self._on, self._found.tally)

    def _may_hold_gang(self, scope: list[DeviceRoom], ask: Ask) -> bool:
        """Whether enough devices would have the bytes if all victims left."""
        if ask.replicas == 1:
            return True
        needed = ask.bytes_by_kind.get(scope[0].kind)
        if needed is None:
            return False
        on, offers = self._bytes_on, ask.offers
        frees = [room.free_bytes + on.get(room.device_id, 0) + offers.get(room.device_id, 0) for room in scope]
        return sum(free >= needed for free in frees) >= ask.replicas

    def _may_fit(self, ask: Ask, device_id: str) -> bool:
        room = self._found.state.rooms.devices[device_id]
        needed = ask.needs_on(room)
        return needed is not None and needed <= ask.free_on(room) + self._bytes_on[device_id]

    def _load(self, block: list[Victim]) -> list[str]:
        """Note the victims; the devices that they leave."""
        touched: dict[str, None] = {}
        for victim in block:
            for hold in victim.job.holds:
                if hold.device_id in self._found.state.devices:
                    self._on.setdefault(hold.device_id, []).append(victim)
                    self._bytes_on[hold.device_id] = self._bytes_on.get(hold.device_id, 0) + hold.bytes
                    touched[hold.device_id] = None
        return list(touched)

    def _in_blocks(self, teams: list[str]) -> Iterator[list[Victim]]:
        """Victims of equal class and equal share of their team, in order; then those who are spared, likewise."""
        shares = {team_id: borrowed_share(self._found.tally(team_id)) for team_id in teams}
        ranked = sorted(teams, key=lambda team_id: (-shares[team_id], team_id))
        for is_spared, is_idle in ((False, True), (False, False), (True, True), (True, False)):
            if is_spared and not self._may_ask_spared:
                return
            for _, same in groupby(ranked, key=lambda team_id: shares[team_id]):
                block = [victim for team_id in same for victim in self._of_team(team_id, is_idle, is_spared)]
                if block:
                    yield sorted(block, key=lambda victim: victim.key)

    def _of_team(self, team_id: str, is_idle: bool, is_spared: bool) -> Iterator[Victim]:
        found, book = self._found, self._found.state.books[team_id]
        if is_idle and not book.classes[PriorityClass.IDLE]:
            return
        for job in book.running.values():
            if (job.priority_class is PriorityClass.IDLE) is is_idle and job.job_id not in found.leaving:
                victim = as_victim(self._starter, job, found.tally, found.turns)
                if victim is not None and victim.is_spared is is_spared:
                    yield victim
