"""Teams: who shares the pool."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from orchestrator.domain.attempts import Attempt
from orchestrator.domain.budgets import BudgetState
from orchestrator.domain.errors import ForbiddenError, InvalidRequestError, NotFoundError
from orchestrator.domain.ids import new_team_id
from orchestrator.domain.pages import Page
from orchestrator.domain.queries import ALL_ENTRIES, AuditQuery
from orchestrator.domain.scheduling.facts import WHOLE_DEVICE_MICROS
from orchestrator.domain.shares import Grid, make_grid, sum_shares, trace_back
from orchestrator.domain.teams import AuditEntry, Caller, Role, Team
from orchestrator.services import idempotency
from orchestrator.services.idempotency import UNMARKED, Marks
from orchestrator.store import attempts, audit, teams
from orchestrator.store.budgets import read_budget
from orchestrator.store.holds import list_holds
from orchestrator.store.session import ReadTx, Store

SCOPE = "POST /v1/teams"
_NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,62}$")
MOST_HOLDS = 50_000
"""Read for shares; what came before so many holds is not told."""
MOST_CHANGES = 1000
AUTOMATIC_ACTOR = audit.AUTOMATIC
"""In place of a key's id, in the log, for what the pool did by itself."""


def require_admin(caller: Caller) -> None:
    """Raises ForbiddenError unless the caller runs the pool."""
    if caller.role is not Role.ADMIN:
        raise ForbiddenError(f"this key is a {caller.role.value}'s; an admin's is needed")


def require_member(caller: Caller) -> None:
    """Raises ForbiddenError when the caller may only read."""
    if caller.role is Role.VIEWER:
        raise ForbiddenError("this key is a viewer's, which reads; a member's or an admin's is needed")


def find_named_team(tx: ReadTx, name_or_id: str) -> Team:
    """A team by its name or its id. Raises InvalidRequestError that names the teams that exist."""
    found = teams.find_team_by_name(tx, name_or_id)
    if found is not None:
        return found
    try:
        return teams.get_team(tx, name_or_id)
    except NotFoundError:
        known = ", ".join(team.name for team in teams.list_teams(tx))
        raise InvalidRequestError(f"there is no team {name_or_id!r}; there are {known}", param="team") from None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A team with what it uses now, in millionths of a reference device, and its money in the period that holds."""

    team: Team
    running_micros: int
    running_jobs: int
    budget: BudgetState


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a team held on average in each slot, and what it was guaranteed at the slot's end: millionths of a reference
    device."""

    team: Team
    held_micros: tuple[float, ...]
    guarantee_micros: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Shares:
    grid: Grid
    shares: tuple[Share, ...]


def read_standing(tx: ReadTx, team: Team, active: Sequence[Attempt] | None = None) -> Standing:
    """`active` are the pool's active attempts, when they were read already."""
    found = attempts.list_active(tx) if active is None else active
    mine = [attempt for attempt in found if attempt.team_id == team.team_id]
    return Standing(
        team=team,
        running_micros=sum(attempt.rate_micros for attempt in mine),
        running_jobs=len({attempt.job_id for attempt in mine}),
        budget=read_budget(tx, team),
    )


def _require_sound(team: Team) -> None:
    if team.guarantee_micros < 0:
        raise InvalidRequestError("a guarantee cannot be negative", param="guarantee_devices")
    if team.ceiling_micros is not None and team.ceiling_micros < team.guarantee_micros:
        raise InvalidRequestError(
            f"the ceiling ({team.ceiling_micros / WHOLE_DEVICE_MICROS:g} devices) is below the guarantee "
            f"({team.guarantee_micros / WHOLE_DEVICE_MICROS:g})",
            param="ceiling_devices",
        )
    if team.weight_millis < 1:
        raise InvalidRequestError("a weight is at least 0.001", param="weight")
    if team.budget_usd_micros is not None and team.budget_usd_micros < 0:
        raise InvalidRequestError("a budget cannot be negative", param="budget_usd")


@dataclass(frozen=True)
class Teams:
    store: Store

    def create(self, caller: Caller, name: str, *, marks: Marks = UNMARKED) -> Team:
        """Names are lower case letters, digits and dashes, because they become part of model names. A repeat, by its
        `marks`, gives the first one's team; raises ConflictError for the name of another."""
        require_admin(caller)
        if not _NAME.match(name):
            raise InvalidRequestError(
                f"{name!r} is not a team's name: use up to 63 lower case letters, digits and dashes", param="name"
            )
        with self.store.write() as tx:
            team_id, repeat = new_team_id(), marks.of({"name": name})
            first_id = idempotency.claim(tx, caller, scope=SCOPE, repeat=repeat, object_id=team_id)
            if first_id is not None:
                return teams.get_team(tx, first_id)
            audit.append_entry(tx, caller, "team.create", name, team_id=team_id)
            return teams.insert_team(tx, name=name, team_id=team_id)

    def set_terms(self, caller: Caller, name_or_id: str, terms: Mapping[str, Any]) -> Standing:
        """Change what a team is promised (see `store.teams.TERMS`); what is not named stays. Admins only.

        Raises InvalidRequestError, naming the field, for terms that contradict each other. Jobs that run go on: a lower
        ceiling or budget holds for the next start. Only what became another is in the log.
        """
        require_admin(caller)
        with self.store.write() as tx:
            team = teams.lock_team(tx, find_named_team(tx, name_or_id).team_id)
            changed = replace(team, **terms)
            _require_sound(changed)
            teams.record_terms(tx, team.team_id, terms)
            before = {name: getattr(team, name) for name in terms}
            said = {name: {"from": before[name], "to": value} for name, value in terms.items() if before[name] != value}
            if said:
                audit.append_entry(tx, caller, "team.terms", team.name, team_id=team.team_id, data=said)
            return read_standing(tx, changed)

    def standings(self, caller: Caller, found: Sequence[Team]) -> tuple[Standing, ...]:
        """What teams that the caller was given use and have left."""
        with self.store.read() as tx:
            active = attempts.list_active(tx)
            return tuple(read_standing(tx, team, active) for team in found)

    def shares(self, caller: Caller, *, days: int, team_id: str | None = None) -> Shares:
        """What teams held in the last `days` (1 to 31) against their guarantees as they were then: all teams for an
        admin, one's own for others; or `team_id` alone. It begins later where there were more than MOST_HOLDS.

        Raises NotFoundError for a team that the caller does not see.
        """
        read_id = caller.visible_team_id or team_id
        with self.store.read() as tx:
            grid = make_grid(tx.now(), days)
            holds, complete_since = list_holds(tx, grid.since_at, team_id=read_id, limit=MOST_HOLDS)
            if complete_since > grid.since_at:
                grid = grid.clip(complete_since)
            which = AuditQuery(action="team.terms", since=grid.since_at)
            changes = audit.list_entries(tx, team_id=read_id, which=which, limit=MOST_CHANGES)
            found = _visible_teams(tx, caller) if team_id is None else (_get_visible_team(tx, caller, team_id),)
        held = sum_shares(holds, grid)
        nothing = [0.0] * len(grid.starts)
        return Shares(
            grid=grid,
            shares=tuple(
                Share(
                    team=team,
                    held_micros=tuple(held.get(team.team_id, nothing)),
                    guarantee_micros=tuple(
                        trace_back(team.guarantee_micros, _guarantee_changes(changes, team.team_id), grid)
                    ),
                )
                for team in found
            ),
        )

    def audit_log(
        self, caller: Caller, *, which: AuditQuery = ALL_ENTRIES, limit: int = 100, after: int | None = None
    ) -> Page[AuditEntry]:
        """What was changed, by hand or by the pool itself, newest first: everything for an admin, what concerns one's
        team for others."""
        with self.store.read() as tx:
            found = audit.list_entries(
                tx, team_id=caller.visible_team_id, which=which, before_id=after, limit=limit + 1
            )
        return Page(items=tuple(found[:limit]), has_more=len(found) > limit)

    def audit_actions(self, caller: Caller) -> tuple[str, ...]:
        """Every verb that the caller's log has."""
        with self.store.read() as tx:
            return tuple(audit.list_actions(tx, caller.visible_team_id))

    def get(self, caller: Caller, team_id: str) -> Team:
        with self.store.read() as tx:
            return _get_visible_team(tx, caller, team_id)

    def list(self, caller: Caller) -> tuple[Team, ...]:
        """All teams for an admin, one's own for others."""
        with self.store.read() as tx:
            return _visible_teams(tx, caller)


def _visible_teams(tx: ReadTx, caller: Caller) -> tuple[Team, ...]:
    if caller.visible_team_id is None:
        return tuple(teams.list_teams(tx))
    return (teams.get_team(tx, caller.team_id),)


def _get_visible_team(tx: ReadTx, caller: Caller, team_id: str) -> Team:
    if caller.visible_team_id not in {None, team_id}:
        raise NotFoundError(f"No such team: {team_id}")
    return teams.get_team(tx, team_id)


def _guarantee_changes(entries: Sequence[AuditEntry], team_id: str) -> list[tuple[datetime, Mapping[str, int]]]:
    """Newest first."""
    return [
        (entry.at, entry.data["guarantee_micros"])
        for entry in entries
        if entry.team_id == team_id and "guarantee_micros" in entry.data
    ]
