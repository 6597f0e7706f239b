"""What a caller wants of a long list: which rows, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from orchestrator.domain.states import JobState

JobSort = Literal["created", "model", "status", "tokens"]


@dataclass(frozen=True, kw_only=True)
class JobQuery:
    """`text` is a part, in any case, of the job's id, of its models' names, or of a value of its metadata. What is
    equal in `sort` is sorted by creation."""

    states: Sequence[JobState] | None = None
    text: str | None = None
    sort: JobSort = "created"
    descending: bool = True


@dataclass(frozen=True, kw_only=True)
class LineQuery:
    """`attempt` is an attempt's number, `text` a part of the line, in any case. Newest first when `descending`."""

    attempt: int | None = None
    level: str | None = None
    text: str | None = None
    descending: bool = False


@dataclass(frozen=True, kw_only=True)
class AuditQuery:
    """`actor` is a key's id; `action` the whole verb, such as team.terms, or its first part; `since` or later and
    before `until`."""

    actor: str | None = None
    action: str | None = None
    team_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


ALL_JOBS = JobQuery()
ALL_LINES = LineQuery()
ALL_ENTRIES = AuditQuery()
