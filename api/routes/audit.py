"""What was changed by hand, by whom."""

from fastapi import APIRouter

from api.dependencies import After, PageLimit, Reader, Teams
from api.openapi import failures
from api.schemas.teams import AuditOut
from api.schemas.wire import ListPage, list_page
from orchestrator.domain.errors import InvalidRequestError

router = APIRouter(prefix="/v1/audit", tags=["Teams"])


@router.get("", responses=failures(400), summary="List changes made by hand")
def list_audit(caller: Reader, teams: Teams, after: After = None, limit: PageLimit = 20) -> ListPage[AuditOut]:
    """Newest first: everything for an admin, what the pool did by itself too; for others what concerns their team."""
    if after is not None and not after.isdecimal():
        raise InvalidRequestError(f"after: {after!r} is not the id of an entry", param="after")
    page = teams.audit_log(caller, limit=limit, after=None if after is None else int(after))
    return list_page([AuditOut.of(entry) for entry in page.items], has_more=page.has_more)
