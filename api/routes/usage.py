"""What was used and what it cost, in sums or entry by entry."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.dependencies import Reader, Usage
from api.downloads import Download
from api.openapi import failures, json_or_csv
from api.requests import JsonRoute
from api.schemas.focus import COLUMNS, list_focus_rows
from api.schemas.usage import UsageOut, csv_header, list_csv_rows, read_dimensions, read_period
from api.spreadsheets import CSV, write_csv

router = APIRouter(prefix="/v1/usage", tags=["Teams"], route_class=JsonRoute)
Since = Annotated[str | None, Query(max_length=40, description="What began then or later: 2026-11-01, or a moment.")]
Until = Annotated[str | None, Query(max_length=40, description="What began before: 2026-12-01, or a moment.")]
GroupBy = Annotated[
    str, Query(max_length=100, description="Of team, user, device, device_type, model and day, with commas between.")
]
Format = Annotated[
    Literal["json", "csv", "focus"],
    Query(description="`csv` has the groups; `focus` has every ledger entry as FOCUS 1.2, and no groups."),
]


@router.get("", response_model=UsageOut, responses=failures(400) | json_or_csv(UsageOut), summary="Show usage and cost")
def get_usage(
    caller: Reader,
    usage: Usage,
    since: Since = None,
    until: Until = None,
    group_by: GroupBy = "team",
    format: Format = "json",  # noqa: A002 — the parameter's name on the wire
) -> UsageOut | Response:
    """Sums over the ledger: of the whole pool for an admin, of one's team for others. Useful device time stands apart
    from what failures and preemption wasted, and, for admins, from what idled; what runs still is not in the ledger
    yet."""
    period = read_period(since, until)
    if format == "focus":
        blocks = (list_focus_rows(page) for page in usage.pages(caller, period))
        return Download(write_csv(list(COLUMNS), blocks), filename="tunepool-focus.csv", media_type=CSV)
    found = usage.sums(caller, period, read_dimensions(group_by))
    if format == "csv":
        return Download(write_csv(csv_header(found), [list_csv_rows(found)]), filename="usage.csv", media_type=CSV)
    return UsageOut.of(found, period)
