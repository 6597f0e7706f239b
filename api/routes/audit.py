"""What was changed, by whom."""

from fastapi import APIRouter

from api.dependencies import After, PageLimit, Reader, Teams, WhichEntries, read_entry_place
from api.openapi import failures
from api.schemas.teams import AuditOut
from api.schemas.wire import ListPage, list_page

router = APIRouter(prefix="/v1/audit", tags=["Teams"])


@router.get("", responses=failures(400), summary="List changes")
def list_audit(
    caller: Reader, teams: Teams, which: WhichEntries, after: After = None, limit: PageLimit = 20
) -> ListPage[AuditOut]:
    """Newest first: everything for an admin, what the pool did by itself too; for others what concerns their team."""
    page = teams.audit_log(caller, which=which, limit=limit, after=read_entry_place(after))
    return list_page([AuditOut.of(entry) for entry in page.items], has_more=page.has_more)
