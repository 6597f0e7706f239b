"""Facts of a wait or a hint as one sentence for the person who waits."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from orchestrator.domain.scheduling.actions import Wait, WaitCode
from orchestrator.domain.scheduling.hints import Hint, HintCode

Facts = Mapping[str, Any]

GIB = 1024**3


def wait_sentence(wait: Wait) -> str:
    """One sentence that names devices, teams, amounts and moments."""
    return _WAITS[wait.code](wait.facts)


def hint_sentence(hint: Hint) -> str:
    """What would let the job start now, or next."""
    return _HINTS[hint.code](hint.facts)


def moment(at: float) -> str:
    """POSIX seconds as people read them, in UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%d %b %H:%M} UTC"


def gibibytes(size_bytes: int) -> str:
    """Bytes with one decimal of a GiB."""
    return f"{size_bytes / GIB:.1f} GiB"


def dollars(usd_micros: int) -> str:
    """Micro-dollars with cents."""
    return f"{usd_micros / 1_000_000:.2f} USD"


def devices_share(micros: int) -> str:
    """A share of the pool in reference devices."""
    return f"{micros / 1_000_000:.2f} devices"


def _listed(ids: list[str]) -> str:
    shown = ", ".join(ids[:4])
    return f"{shown} and {len(ids) - 4} more" if len(ids) > 4 else shown


def _no_device(facts: Facts) -> str:
    where = f"of type {_listed(facts['device_types'])}" if facts["device_types"] else "in the pool"
    if facts["bytes"] is None or not facts["devices"]:
        return f"No device {where} can run it now."
    if facts["bytes"] > facts["largest_bytes"]:
        largest = gibibytes(facts["largest_bytes"])
        return f"It needs {gibibytes(facts['bytes'])} on one device; the largest {where} has {largest}."
    together = "on one node" if facts["same_node"] else "of one type"
    count = facts["replicas"]
    return f"It needs {count} devices of {gibibytes(facts['bytes'])} {together}; there are not that many {where}."


def _over_ceiling(facts: Facts) -> str:
    has, most, more = (devices_share(facts[key]) for key in ("share_micros", "ceiling_micros", "rate_micros"))
    return f"Team {facts['team']} has {has} of at most {most}; this job needs {more} more."


def _over_budget(facts: Facts) -> str:
    left, cost = dollars(facts["left_usd_micros"]), dollars(facts["cost_usd_micros"])
    return f"Team {facts['team']} has {left} left in this period; this job may cost {cost}."


def _preempting(facts: Facts) -> str:
    jobs = f" as {_listed(facts['jobs'])} saves and leaves" if facts["jobs"] else ""
    return f"Room is being made on {_listed(facts['devices'])}{jobs}."


def _pinned(facts: Facts) -> str:
    devices, at = _listed(facts["devices"]), moment(facts["at"])
    if facts["holder"] is None:
        return f"Next on {devices}, expected at {at}; those devices are kept for it."
    return f"There is room on {devices}, but it is kept for {facts['holder']} until {at}, and this job would end later."


def _behind(facts: Facts) -> str:
    jobs = "1 job waits" if facts["ahead"] == 1 else f"{facts['ahead']} jobs wait"
    return f"{jobs} ahead of it for the same devices (class {facts['priority_class']})."


def _no_room(facts: Facts) -> str:
    if facts["at"] is None:
        return f"First in line; no device has {gibibytes(facts['bytes'])} free."
    return f"First in line; room on {_listed(facts['devices'])} is expected at {moment(facts['at'])}."


_WAITS: Mapping[WaitCode, Callable[[Facts], str]] = {
    WaitCode.HELD: lambda _: "It is held until somebody releases it.",
    WaitCode.NOT_BEFORE: lambda facts: f"It may not start before {moment(facts['at'])}.",
    WaitCode.ARRAY_LIMIT: lambda facts: f"Its array runs at most {facts['limit']} at once, and as many run.",
    WaitCode.NO_DEVICE: _no_device,
    WaitCode.OVER_CEILING: _over_ceiling,
    WaitCode.OVER_BUDGET: _over_budget,
    WaitCode.PREEMPTING: _preempting,
    WaitCode.PINNED: _pinned,
    WaitCode.BEHIND: _behind,
    WaitCode.NO_ROOM: _no_room,
}

_HINTS: Mapping[HintCode, Callable[[Facts], str]] = {
    HintCode.OTHER_TYPE: lambda facts: f"It would start now if it could also use {_listed(facts['device_types'])}.",
    HintCode.SMALLER: lambda facts: (
        f"It would start now on {facts['device']} if it needed at most {gibibytes(facts['bytes'])} per device."
    ),
    HintCode.SHORTER: lambda facts: (
        f"It would start now on {facts['device']} if it took at most {facts['seconds'] / 60:.0f} minutes."
    ),
    HintCode.SEVERAL_NODES: lambda _: "It would start now if its devices could be on several nodes.",
    HintCode.AFTER_JOB: lambda facts: (
        f"It would start after {facts['job_id']} on {facts['device']}, expected at {moment(facts['at'])}."
    ),
}
