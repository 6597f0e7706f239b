"""What was changed, by whom: filtered, paged."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

from api.dashboard.forms import PageRoute
from api.dashboard.rendering import render
from api.dashboard.views.changes import show_changes
from api.dependencies import After, Keys, Reader, Teams, WhichEntries, read_entry_place
from orchestrator.domain.teams import Caller, Role
from orchestrator.services.teams import AUTOMATIC_ACTOR

router = APIRouter(prefix="/teams/audit", route_class=PageRoute)
PAGE_ENTRIES = 50
FILTERS = ("actor", "action", "team", "since", "until")


@router.get("")
def show_audit(
    request: Request, caller: Reader, teams: Teams, keys: Keys, which: WhichEntries, after: After = None
) -> Response:
    page = teams.audit_log(caller, which=which, limit=PAGE_ENTRIES, after=read_entry_place(after or None))
    names = {key.key_id: key.name for key in keys.list(caller)}
    actions = teams.audit_actions(caller)
    asked = {name: request.query_params.get(name, "") for name in FILTERS}
    given = {name: value for name, value in asked.items() if value}
    values: dict[str, Any] = {
        "changes": show_changes(page.items, names),
        "actors": _name_actors(caller, names),
        "kinds": sorted({action.partition(".")[0] for action in actions}),
        "actions": actions,
        "teams": {team.team_id: team.name for team in teams.list(caller)},
        "asked": asked,
        "has_more": page.has_more,
        "is_first": not after,
        "query": urlencode(given),
        "next_query": urlencode({**given, "after": str(page.items[-1].audit_id)}) if page.items else "",
    }
    return render(request, "audit.html", values)


def _name_actors(caller: Caller, names: Mapping[str, str]) -> dict[str, str]:
    """By id, as the filter offers them. What the pool does by itself only admins see."""
    actors = {key_id: f"{name} ({key_id[-6:]})" for key_id, name in names.items()}
    return {AUTOMATIC_ACTOR: "the pool itself", **actors} if caller.role is Role.ADMIN else actors
