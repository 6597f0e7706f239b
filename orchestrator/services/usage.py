"""Usage and what it cost: the ledger in sums by group, and entry by entry for other tools."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.idle import IDLE_DIMENSIONS, Held, Spell, sum_idle
from orchestrator.domain.teams import Caller
from orchestrator.domain.usage_sums import Dimension, LedgerLine, Period, Slice, Usage, sum_up
from orchestrator.store import holds, keys, spells, teams, usage
from orchestrator.store.session import ReadTx, Store

MAX_SLICES = 100_000
"""Of one answer, about 50 MB of memory; a year of 30 users' days on ten models is a tenth of it."""
LINES_PER_READ = 500
"""Entries in one short transaction: a slow client holds neither a connection nor more than this in memory."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """Of teams and of API keys, by id."""

    teams: Mapping[str, str]
    users: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class UsageSums:
    """`groups` by their values, in the order of `dimensions`; `total` is the sum of all.

    `idle` has microseconds of whole devices that nobody used: nobody's, so only admins see them. None where the groups
    are of teams, users or models, which it cannot be told apart by, and for a period with too many attempts; a group
    may have idle time only.
    """

    dimensions: tuple[Dimension, ...]
    groups: Mapping[tuple[str, ...], Usage]
    total: Usage
    names: Names
    idle: Mapping[tuple[str, ...], Fraction] | None = None
    idle_total: Fraction | None = None


@dataclass(frozen=True, kw_only=True)
class LedgerPage:
    lines: tuple[LedgerLine, ...]
    names: Names


@dataclass(frozen=True)
class UsageReader:
    store: Store

    def sums(self, caller: Caller, period: Period, dimensions: Sequence[Dimension]) -> UsageSums:
        """The whole pool's for an admin, the caller's team's for others. What runs still is not in the ledger yet.

        Raises InvalidRequestError when that would be too many groups.
        """
        with self.store.read() as tx:
            slices = usage.list_slices(tx, caller.visible_team_id, period, dimensions, limit=MAX_SLICES + 1)
            names = _read_names(tx, caller.visible_team_id)
            offered = _read_offered(tx, period) if caller.visible_team_id is None else None
        if len(slices) > MAX_SLICES:
            raise InvalidRequestError(
                "these are too many groups for one answer; ask for a shorter period or group by less", param="group_by"
            )
        groups, idle, idle_total = sum_up(slices), None, None
        if offered is not None:
            idle_total = sum(sum_idle(*offered, period, ()).values(), Fraction())
            idle = sum_idle(*offered, period, dimensions) if IDLE_DIMENSIONS.issuperset(dimensions) else None
            groups = dict(sorted({**{key: Usage() for key in idle or ()}, **groups}.items()))
        return UsageSums(
            dimensions=tuple(dimensions),
            groups=groups,
            total=_total(slices),
            names=names,
            idle=idle,
            idle_total=idle_total,
        )

    def pages(self, caller: Caller, period: Period) -> Iterator[LedgerPage]:
        """As `sums`, entry by entry: all that are in the ledger now."""
        with self.store.read() as tx:
            as_of = tx.now()
        return self._walk(caller.visible_team_id, period, as_of)

    def _walk(self, team_id: str | None, period: Period, as_of: datetime) -> Iterator[LedgerPage]:
        after: tuple[str, int] | None = None
        while True:
            with self.store.read() as tx:
                lines = usage.list_lines(tx, team_id, period, as_of=as_of, after=after, limit=LINES_PER_READ)
                names = _read_names(tx, team_id)
            if lines:
                yield LedgerPage(lines=tuple(lines), names=names)
            if len(lines) < LINES_PER_READ:
                return
            after = (lines[-1].entry.attempt_id, lines[-1].entry.interval)


def _read_offered(tx: ReadTx, period: Period) -> tuple[list[Spell], list[Held]] | None:
    """None when that would be too much for one answer: then idle time is told for shorter periods only."""
    offered = spells.list_spells(tx, period, limit=MAX_SLICES + 1), holds.list_held(tx, period, limit=MAX_SLICES + 1)
    return None if any(len(found) > MAX_SLICES for found in offered) else offered


def _total(slices: Sequence[Slice]) -> Usage:
    total = Usage()
    for part in slices:
        total.add(part)
    return total


def _read_names(tx: ReadTx, team_id: str | None) -> Names:
    return Names(
        teams={team.team_id: team.name for team in teams.list_teams(tx)},
        users={key.key_id: key.name for key in keys.list_keys(tx, team_id)},
    )
