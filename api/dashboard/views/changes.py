"""The audit log in words: what was done to what, by whom, and what it was before."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from api.dashboard.formats import say_usd
from api.schemas.teams import AuditOut
from orchestrator.domain.scheduling.facts import WHOLE_DEVICE_MICROS
from orchestrator.domain.teams import AuditEntry

WORDS = {
    "team.create": "made the team",
    "team.terms": "changed the terms of",
    "key.create": "made a key,",
    "key.revoke": "revoked the key",
    "price.set": "set the price of",
    "node.cordon": "cordoned",
    "node.drain": "drained",
    "node.uncordon": "uncordoned",
    "node.rest": "put to rest",
    "node.wake": "woke",
    "job.queue": "changed the place of",
    "array.create": "made the array",
    "array.change": "changed the array",
    "array.cancel": "cancelled the array",
}
FIELDS = {
    "guarantee_micros": "guarantee",
    "ceiling_micros": "ceiling",
    "weight_millis": "weight",
    "budget_usd_micros": "budget",
    "usd_micros_per_hour": "per hour",
}


@dataclass(frozen=True, kw_only=True)
class Detail:
    """`before` is None where only the new value is known. Values are markup or text to be escaped."""

    name: str
    before: Any
    after: Any


@dataclass(frozen=True, kw_only=True)
class Change:
    """`actor` is the key's name, None when the caller may not know it; `job_id` where the subject is a job."""

    entry: AuditOut
    actor: str | None
    words: str
    subject: str
    job_id: str | None
    details: tuple[Detail, ...]


def show_changes(entries: Iterable[AuditEntry], key_names: Mapping[str, str]) -> list[Change]:
    return [_show(AuditOut.of(entry), key_names) for entry in entries]


def _show(entry: AuditOut, key_names: Mapping[str, str]) -> Change:
    is_job, is_key = entry.action.startswith("job."), entry.action.startswith("key.")
    name = str(entry.data.get("name", "")) if is_key else ""
    return Change(
        entry=entry,
        actor=key_names.get(entry.key_id),
        words=WORDS.get(entry.action, entry.action),
        subject=name or entry.subject,
        job_id=entry.subject if is_job else None,
        details=tuple(_detail(field, value) for field, value in entry.data.items() if not (is_key and field == "name")),
    )


def _detail(field: str, value: Any) -> Detail:
    name = FIELDS.get(field, field.replace("_", " "))
    if isinstance(value, dict) and set(value) == {"from", "to"}:
        return Detail(name=name, before=_say(field, value["from"]), after=_say(field, value["to"]))
    return Detail(name=name, before=None, after=_say(field, value))


def _say(field: str, value: Any) -> Any:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if field in {"guarantee_micros", "ceiling_micros"}:
        return f"{value / WHOLE_DEVICE_MICROS:g} devices"
    if field == "weight_millis":
        return f"{value / 1000:g}"
    if "usd_micros" in field:
        return say_usd(value)
    return str(value)
