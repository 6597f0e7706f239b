"""Smaller ways to run a flexible job, with the same rows per optimizer step: what the scheduler may choose among."""

from collections.abc import Callable, Collection, Mapping

from orchestrator.domain.estimate import DeviceKind, MemoryEstimate, TimeEstimate
from orchestrator.domain.jobs import Alternative
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.sizer import Gauges, footprints_of, measure_kinds

MOST_ALTERNATIVES = 4
PredictTime = Callable[[TrainingPlan, DeviceKind, MemoryEstimate], TimeEstimate]


def list_alternatives(
    plan: TrainingPlan,
    gauges: Gauges,
    *,
    footprints: Mapping[str, int],
    present: Collection[DeviceKind],
    predict_time: PredictTime,
) -> tuple[Alternative, ...]:
    """From the fastest to the smallest: halved micro-batches, then gradient checkpointing. One that needs no less than
    the one before it on any kind of device is left out. `footprints` are the plan's own, bytes by kind."""
    found: list[Alternative] = []
    before = footprints
    for name, smaller in _smaller_plans(plan):
        measured = measure_kinds(smaller, gauges, present=present)
        needed = footprints_of(measured)
        if not any(needed[kind] < before.get(kind, 0) for kind in needed):
            continue
        seconds: dict[str, float] = {kind: predict_time(smaller, kind, size).seconds for kind, size in measured.items()}
        found.append(Alternative(name=name, plan=smaller, footprints=needed, seconds=seconds))
        before = needed
        if len(found) == MOST_ALTERNATIVES:
            break
    return tuple(found)


def _smaller_plans(plan: TrainingPlan) -> list[tuple[str, TrainingPlan]]:
    plans: list[tuple[str, TrainingPlan]] = []
    smaller = plan.halve_micro_batch()
    while smaller is not None:
        plans.append((f"micro-batch {smaller.micro_batch_rows}", smaller))
        smaller = smaller.halve_micro_batch()
    if plan.gradient_checkpointing:
        return plans
    bases = [plan, *(found for _, found in plans)]
    checkpointed = [found.model_copy(update={"gradient_checkpointing": True}) for found in bases]
    names = [f"micro-batch {found.micro_batch_rows} and gradient checkpointing" for found in checkpointed]
    return [*plans[:2], *zip(names, checkpointed, strict=True)]
