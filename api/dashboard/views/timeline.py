"""A job's life on one line: checked, waiting, and each attempt, from its creation to its end or to now."""

from dataclasses import dataclass

from api.dashboard.formats import say_duration
from api.dashboard.views.bars import SMALLEST, WIDTH, scale
from api.schemas.activity import AttemptOut, EventOut
from api.schemas.jobs import JobOut


@dataclass(frozen=True, kw_only=True)
class Span:
    name: str
    look: str
    x: float
    width: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Unix seconds of both ends."""

    begin: int
    end: int
    spans: list[Span]


def lay_out_life(job: JobOut, attempts: list[AttemptOut], *, now: float) -> Timeline:
    begin = job.created_at
    end = max(job.finished_at or int(now), begin + 1)
    checked = job.queued_at or (end if job.status == "validating_files" else begin)
    found = [("validation", "checking", begin, checked)]
    since = checked
    for attempt in attempts:
        started = attempt.started_at or attempt.created_at
        stopped = attempt.ended_at or end
        found.append(("waiting", "waiting", since, started))
        found.append((f"attempt {attempt.number}", f"state-{attempt.state}", started, stopped))
        since = stopped
    if job.finished_at is None and (not attempts or attempts[-1].ended_at is not None):
        found.append(("paused" if job.status == "paused" else "waiting", "waiting", since, end))
    spans = [_place(span, begin, end) for span in found if span[3] > span[2] or span[0].startswith("attempt")]
    return Timeline(begin=begin, end=end, spans=spans)


@dataclass(frozen=True, kw_only=True)
class EventMark:
    look: str
    x: float
    title: str


def mark_events(events: list[EventOut], life: Timeline) -> list[EventMark]:
    """Where events lie on the line, warnings and errors last, so that they are on top."""
    ranked = sorted(events, key=lambda event: ("info", "warn", "error").index(event.level))
    return [
        EventMark(
            look=event.level,
            x=scale(event.created_at - life.begin, life.end - life.begin),
            title=f"{say_duration(event.created_at - life.begin)} after creation: {event.message}",
        )
        for event in ranked
    ]


def _place(span: tuple[str, str, int, int], begin: int, end: int) -> Span:
    name, look, since, until = span
    x = scale(since - begin, end - begin)
    width = max(scale(until - begin, end - begin) - x, SMALLEST)
    return Span(
        name=name,
        look=look,
        x=min(x, WIDTH - SMALLEST),
        width=round(width, 2),
        title=f"{name}: {say_duration(until - since)}",
    )
