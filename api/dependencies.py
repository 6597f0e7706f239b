"""What a handler can ask for by type: who calls and what they may do, a use case, a place in a list.

Permissions are types: a handler that takes a Writer cannot be reached by a viewer. These functions only look things up
in memory, so they are coroutines and cost no thread.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends, Header, Path, Query, Request
from fastapi.security import HTTPBearer

from api.feeds import Followed
from api.schemas.activity import MAX_ID_DIGITS
from api.schemas.usage import read_period
from orchestrator.domain.errors import ForbiddenError, InvalidRequestError
from orchestrator.domain.queries import AuditQuery, JobQuery, JobSort, LineQuery
from orchestrator.domain.states import JobState
from orchestrator.domain.teams import Caller, Role
from orchestrator.services import (
    accuracy,
    adapters,
    arrays,
    costs,
    estimates,
    files,
    health,
    jobs,
    keys,
    models,
    pool,
    previews,
    queue,
    simulation,
    tail,
    teams,
    uploads,
    usage,
    why,
)
from orchestrator.services.idempotency import Marks
from orchestrator.services.pool import NodeWish

MAX_METADATA_PAIRS = 16
_BEARER = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="An API key of a team: `Bearer <key>`.")
"""For the OpenAPI document only; `api.auth` has checked the key before a route is known."""


async def _reader(request: Request, _: Annotated[Any, Depends(_BEARER)]) -> Caller:
    caller = request.scope["state"]["caller"]
    assert isinstance(caller, Caller)
    return caller


Reader = Annotated[Caller, Depends(_reader)]
"""Any valid key."""


async def _writer(caller: Reader) -> Caller:
    if caller.role is Role.VIEWER:
        raise ForbiddenError("this key is a viewer's, which reads; a member's or an admin's is needed")
    return caller


Writer = Annotated[Caller, Depends(_writer)]
"""A member or an admin."""


async def _admin(caller: Reader) -> Caller:
    if caller.role is not Role.ADMIN:
        raise ForbiddenError(f"this key is a {caller.role.value}'s; an admin's is needed")
    return caller


Admin = Annotated[Caller, Depends(_admin)]


def _service(name: str) -> Callable[[Request], Coroutine[Any, Any, Any]]:
    async def find(request: Request) -> Any:
        return getattr(request.app.state.services, name)

    return find


Accuracy = Annotated[accuracy.AccuracyReader, Depends(_service("accuracy"))]
Adapters = Annotated[adapters.Adapters, Depends(_service("adapters"))]
Arrays = Annotated[arrays.Arrays, Depends(_service("arrays"))]
Costs = Annotated[costs.Costs, Depends(_service("costs"))]
Estimates = Annotated[estimates.Estimates, Depends(_service("estimates"))]
Files = Annotated[files.Files, Depends(_service("files"))]
Health = Annotated[health.Health, Depends(_service("health"))]
History = Annotated[simulation.History, Depends(_service("history"))]
Jobs = Annotated[jobs.Jobs, Depends(_service("jobs"))]
Keys = Annotated[keys.Keys, Depends(_service("keys"))]
Models = Annotated[models.Models, Depends(_service("models"))]
Pool = Annotated[pool.Pool, Depends(_service("pool"))]
Previews = Annotated[previews.Previews, Depends(_service("previews"))]
Queue = Annotated[queue.Queue, Depends(_service("queue"))]
Tail = Annotated[tail.Tail, Depends(_service("tail"))]
Teams = Annotated[teams.Teams, Depends(_service("teams"))]
Why = Annotated[why.WhyReader, Depends(_service("why"))]
Usage = Annotated[usage.UsageReader, Depends(_service("usage"))]
Uploads = Annotated[uploads.Uploads, Depends(_service("uploads"))]

After = Annotated[str | None, Query(max_length=128, description="The id of the last item of the page before.")]
Order = Annotated[Literal["asc", "desc"], Query(description="By the moment of creation.")]
PageLimit = Annotated[int, Query(ge=1, le=100, description="The most items that the page may have.")]
FileLimit = Annotated[int, Query(ge=1, le=10_000, description="The most items that the page may have.")]
LineLimit = Annotated[int, Query(ge=1, le=1000, description="The most items that the page may have.")]
Id = Annotated[str, Path(max_length=512, description="The object's id.")]
NodeName = Annotated[str, Path(max_length=253, description="The node's name, as the pool shows it.")]
Wish = Annotated[NodeWish, Path(description="What the node is to do.")]
ModelName = Annotated[str, Path(max_length=1024, description="A model's name; slashes may be raw or encoded.")]


async def _repeats(
    idempotency_key: Annotated[
        str | None, Header(description="The same key with the same body gives the first answer's object again.")
    ] = None,
    x_stainless_retry_count: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Marks:
    count = x_stainless_retry_count or ""
    return Marks(key=idempotency_key, retries=int(count) if count.isdecimal() else 0)


Repeats = Annotated[Marks, Depends(_repeats)]


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """Which jobs a list keeps; `pairs` are those that a job must have."""

    pairs: dict[str, str] | None
    is_null: bool


async def _metadata_filter(
    request: Request,
    metadata: Annotated[str | None, Query(description="`metadata[key]=value`, or `metadata=null` for none.")] = None,
) -> Metadata:
    pairs = {
        name.removeprefix("metadata[").removesuffix("]"): value
        for name, value in request.query_params.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    if metadata not in {None, "null"} or (metadata and pairs):
        raise InvalidRequestError("give metadata[key]=value, or metadata=null, not both", param="metadata")
    if len(pairs) > MAX_METADATA_PAIRS:
        raise InvalidRequestError(f"at most {MAX_METADATA_PAIRS} pairs", param="metadata")
    return Metadata(pairs=pairs or None, is_null=metadata == "null")


MetadataFilter = Annotated[Metadata, Depends(_metadata_filter)]


async def _job_query(
    status: Annotated[list[JobState] | None, Query(description="Only jobs in one of these states.")] = None,
    search: Annotated[
        str | None, Query(max_length=256, description="A part of the id, of a model's name or of a metadata value.")
    ] = None,
    sort: Annotated[
        JobSort, Query(description="What the list is ordered by, before the moment of creation.")
    ] = "created",
    order: Annotated[Literal["asc", "desc"], Query(description="The order of all that is sorted by.")] = "desc",
) -> JobQuery:
    return JobQuery(states=status or None, text=search or None, sort=sort, descending=order == "desc")


WhichJobs = Annotated[JobQuery, Depends(_job_query)]


async def _audit_query(
    actor: Annotated[
        str | None,
        Query(max_length=128, description="Only what this key did, by its id; `scheduler` for the pool itself."),
    ] = None,
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


def read_entry_place(after: str | None) -> int | None:
    """The number of the entry that a page goes on behind. Raises InvalidRequestError for what is none."""
    if after is not None and not (after.isascii() and after.isdecimal() and len(after) <= MAX_ID_DIGITS):
        raise InvalidRequestError(f"after: {after!r} is not the id of an entry", param="after")
    return None if after is None else int(after)


async def _line_query(
    attempt: Annotated[int | None, Query(ge=1, description="Only this attempt's lines.")] = None,
    level: Annotated[Literal["info", "warn", "error"] | None, Query(description="Only lines of this level.")] = None,
    search: Annotated[
        str | None, Query(max_length=256, description="Only lines that hold this text, in any case.")
    ] = None,
    order: Annotated[Literal["asc", "desc"], Query(description="By the line's place in the log.")] = "asc",
) -> LineQuery:
    return LineQuery(attempt=attempt, level=level, text=search or None, descending=order == "desc")


WhichLines = Annotated[LineQuery, Depends(_line_query)]


@dataclass(frozen=True, kw_only=True)
class StreamAsk:
    """Whether a stream is asked for, and behind which row it should begin."""

    wanted: bool
    after: str | None


async def _stream_ask(
    request: Request,
    after: After = None,
    stream: Annotated[bool, Query(description="Server-sent events instead of a page, until the job is final.")] = False,
    last_event_id: Annotated[str | None, Header(max_length=128, description="Where a stream goes on.")] = None,
) -> StreamAsk:
    wanted = stream or "text/event-stream" in request.headers.get("accept", "")
    return StreamAsk(wanted=wanted, after=last_event_id if wanted and last_event_id else after)


async def _follow(job_id: Id, caller: Reader, jobs: Jobs, tail: Tail) -> Followed:
    return Followed(caller=caller, job_id=job_id, jobs=jobs, tail=tail)


Follow = Annotated[Followed, Depends(_follow)]
"""A job that may be paged through or followed."""
StreamCursor = Annotated[StreamAsk, Depends(_stream_ask)]
