"""What was changed by hand, by whom."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from api.dependencies import After, PageLimit, Reader, Teams
from api.openapi import failures
from api.schemas.teams import AuditOut
from api.schemas.usage import read_period
from api.schemas.wire import ListPage, list_page
from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.queries import AuditQuery

router = APIRouter(prefix="/v1/audit", tags=["Teams"])
MAX_DIGITS = 18
"""What certainly fits into a database's 64 bits."""


async def _audit_query(
    actor: Annotated[str | None, Query(max_length=128, description="Only what this key did, by its id.")] = None,
    action: Annotated[
        str | None, Query(max_length=64, description="Only this verb, such as team.terms; its first part is enough.")
    ] = None,
    team: Annotated[str | None, Query(max_length=128, description="Only what concerns this team, by its id.")] = None,
    since: Annotated[
        str | None, Query(max_length=40, description="What was done then or later: 2026-11-01, or a moment.")
    ] = None,
    until: Annotated[
        str | None, Query(max_length=40, description="What was done before: 2026-12-01, or a moment.")
    ] = None,
) -> AuditQuery:
    period = read_period(since or None, until or None)
    return AuditQuery(
        actor=actor or None, action=action or None, team_id=team or None, since=period.since, until=period.until
    )


WhichEntries = Annotated[AuditQuery, Depends(_audit_query)]


def read_place(after: str | None) -> int | None:
    """The number of the entry that a page goes on behind. Raises InvalidRequestError for what is none."""
    if after is not None and not (after.isascii() and after.isdecimal() and len(after) <= MAX_DIGITS):
        raise InvalidRequestError(f"after: {after!r} is not the id of an entry", param="after")
    return None if after is None else int(after)


@router.get("", responses=failures(400), summary="List changes made by hand")
def list_audit(
    caller: Reader, teams: Teams, which: WhichEntries, after: After = None, limit: PageLimit = 20
) -> ListPage[AuditOut]:
    """Newest first: everything for an admin, what concerns one's own team for others."""
    page = teams.audit_log(caller, which=which, limit=limit, after=read_place(after))
    return list_page([AuditOut.of(entry) for entry in page.items], has_more=page.has_more)
