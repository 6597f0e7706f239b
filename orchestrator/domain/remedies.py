"""What a job that ran out of memory tries next, and what is left to say when nothing is left to try. Pure.

In the order of what it costs: a smaller micro-batch with more accumulation and gradient checkpointing give the same
training, only slower; more memory, or another type of device, costs money or a wait. The effective batch never changes,
so checkpoints and step counts stay comparable from attempt to attempt. Only what decides how a step is computed is
changed, never what it computes: of what the user fixed, nothing but the split of the batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator.domain.estimate import estimate_memory
from orchestrator.domain.estimate_changes import suggest_changes
from orchestrator.domain.placement import DeviceKind, DeviceRoom
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.pool import BaseModel
from orchestrator.domain.sizer import ClosedFormSizer, Gauge
from orchestrator.domain.spec import AUTO, JobShape

MAX_REMEDIES = 4
"""Per job. A job whose micro-batch is 4 may go to 2, to 1, turn on checkpointing and ask for more memory."""
GROWTH_NUMERATOR, GROWTH_DENOMINATOR = 5, 4
"""Of a reservation that was too small: by a quarter."""


@dataclass(frozen=True, kw_only=True)
class ShortJob:
    """A job whose attempt has just run out of memory. `footprints` holds bytes by kind of device, `peak_bytes` is 0
    when nobody measured it, and `remedies_before` counts this job's earlier attempts that ended the same way."""

    plan: TrainingPlan
    spec: JobShape
    footprints: Mapping[str, int]
    rooms: Sequence[DeviceRoom]
    attempt_number: int
    kind: DeviceKind
    reserved_bytes: int
    peak_bytes: int
    remedies_before: int

    @property
    def allowed(self) -> list[DeviceRoom]:
        """The devices that are there and that the user's wish for a type leaves."""
        wanted = self.spec.resources.device_type
        return [room for room in self.rooms if room.schedulable and wanted in {AUTO, room.device_type}]


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """`sentence` is the event that tells of it; `settings` are the fields of the spec with their new values."""

    kind: Literal["micro_batch", "gradient_checkpointing", "memory", "device_type"]
    plan: TrainingPlan
    footprints: Mapping[str, int]
    sentence: str
    settings: Mapping[str, Any]


def choose_remedy(short: ShortJob) -> Remedy | None:
    """The next thing to try; None when MAX_REMEDIES were tried or nothing is left.

    As long as more remedies are left than there are other kinds, the micro-batch is made smaller; so that each kind
    that the job allows has its turn.
    """
    left = MAX_REMEDIES - short.remedies_before
    others = [remedy for remedy in (_checkpoint(short), _ask_for_more(short)) if remedy is not None]
    if left <= 0:
        return None
    if left > len(others) and (smaller := _halve(short)) is not None:
        return smaller
    return others[0] if others else None


def describe_shortage(short: ShortJob) -> str:
    """Which attempt ran out of memory, and at how much of what."""
    reserved = _gib(short.reserved_bytes)
    where = f"at {_gib(short.peak_bytes)} of {reserved}" if short.peak_bytes else f"with {reserved} reserved"
    return f"Attempt {short.attempt_number} ran out of memory {where}"


def describe_way_out(short: ShortJob, model: BaseModel) -> str:
    """The hint when no remedy is left: the smallest change of the job with which it would fit, by what was measured.

    The estimate was too low by the ratio of what was used to what was predicted, so a change must fit by as much more.
    """
    largest = max((room.total_bytes for room in short.allowed if room.kind == short.kind), default=0)
    available = max(largest, short.reserved_bytes)
    predicted = estimate_memory(short.plan, model.facts, short.kind).total_bytes
    gauge = Gauge(sizer=ClosedFormSizer(), model=model, kind=short.kind)
    used = max(short.peak_bytes, short.reserved_bytes)
    bound = min(available * predicted // used, predicted - 1)
    for change in suggest_changes(short.plan, gauge, device_bytes=bound)[:1]:
        settings = " and ".join(f"{name} {str(value).lower()}" for name, value in change.settings.items())
        return f"The smallest change with which it should fit is {settings} ({change.effect})."
    return "It takes a device with more memory, or a smaller base model."


def _halve(short: ShortJob) -> Remedy | None:
    plan, smaller = short.plan, short.plan.halve_micro_batch()
    if smaller is None:
        return None
    pinned = _pinned(short.spec)
    asked = f" {pinned} was given; the split does not change what is learned." if pinned else ""
    sentence = (
        f"uses a micro-batch of {smaller.micro_batch_rows} instead of {plan.micro_batch_rows}, with "
        f"{smaller.accumulation_steps} accumulation steps instead of {plan.accumulation_steps}, so each step still "
        f"trains on {smaller.batch_rows} rows.{asked}"
    )
    settings = {
        "training.micro_batch_size": smaller.micro_batch_rows,
        "training.gradient_accumulation": smaller.accumulation_steps,
    }
    return _remedy(short, "micro_batch", sentence, plan=smaller, settings=settings)


def _checkpoint(short: ShortJob) -> Remedy | None:
    """Not when the user has said no to it."""
    if short.plan.gradient_checkpointing or short.spec.training.gradient_checkpointing is False:
        return None
    plan = short.plan.model_copy(update={"gradient_checkpointing": True})
    sentence = "turns gradient checkpointing on: the same training, about a third slower."
    settings = {"training.gradient_checkpointing": True}
    return _remedy(short, "gradient_checkpointing", sentence, plan=plan, settings=settings)


def _ask_for_more(short: ShortJob) -> Remedy | None:
    """A larger part of a device of this kind, up to the largest device; then a device of another kind."""
    largest = max((room.total_bytes for room in short.allowed if room.kind == short.kind), default=0)
    wanted = max(short.reserved_bytes * GROWTH_NUMERATOR // GROWTH_DENOMINATOR, short.peak_bytes)
    more = min(wanted, largest)
    if more > short.reserved_bytes:
        sentence = f"asks for {_gib(more)} instead of {_gib(short.reserved_bytes)}."
        remedy = _remedy(short, "memory", sentence, plan=short.plan, settings={})
        return replace(remedy, footprints={**remedy.footprints, short.kind: more})
    others = {kind: size for kind, size in short.footprints.items() if kind != short.kind and _has_room(short, kind)}
    if not others:
        return None
    sizes = " or ".join(f"{_gib(size)} of a {kind} device" for kind, size in sorted(others.items()))
    remedy = _remedy(short, "device_type", f"asks for {sizes}.", plan=short.plan, settings={})
    return replace(remedy, footprints=others)


def _has_room(short: ShortJob, kind: str) -> bool:
    return any(room.kind == kind and room.total_bytes >= short.footprints[kind] for room in short.allowed)


def _remedy(
    short: ShortJob,
    kind: Literal["micro_batch", "gradient_checkpointing", "memory", "device_type"],
    sentence: str,
    *,
    plan: TrainingPlan,
    settings: Mapping[str, Any],
) -> Remedy:
    """The reservation is kept at least: what was predicted for the plan before was too little for it. That of an
    exclusive job is a whole device, of whatever size it was; it asks for what it did before, and gets a whole one."""
    asked = short.footprints.get(short.kind, short.reserved_bytes)
    reserved = asked if short.spec.resources.exclusive else max(asked, short.reserved_bytes)
    return Remedy(
        kind=kind,
        plan=plan,
        footprints={**short.footprints, short.kind: reserved},
        sentence=f"{describe_shortage(short)}; attempt {short.attempt_number + 1} {sentence}",
        settings=settings,
    )


def _pinned(spec: JobShape) -> str:
    """How the user has split the batch, if at all."""
    training = spec.training
    given = {
        "training.micro_batch_size": training.micro_batch_size,
        "training.gradient_accumulation": training.gradient_accumulation,
    }
    return " and ".join(f"{name} {value}" for name, value in given.items() if value != AUTO)


def _gib(size_bytes: int) -> str:
    """Two digits of GiB, or MiB where that would say nothing."""
    return f"{size_bytes / 2**30:.2f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"
