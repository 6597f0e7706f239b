"""Memory as a stacked bar: what is predicted, term by term, against what a device has and what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from api.dashboard.formats import say_bytes
from api.dashboard.views.bars import Part, Placed, lay_out, scale
from api.schemas.activity import AttemptOut
from api.schemas.estimates import EstimateOut
from api.schemas.jobs import JobOut

HEADROOM = 1.08
"""The axis goes a little beyond the largest figure."""
NAMES = {
    "base_weights": "base weights",
    "quantization_constants": "quantization constants",
    "logits_and_loss": "logits and loss",
    "runtime": "runtime",
    "calibration": "learned correction",
}


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A line across the bar."""

    name: str
    look: str
    bytes: int
    x: float


@dataclass(frozen=True, kw_only=True)
class MemoryBar:
    """`parts` are in the axis's units, `marks` too."""

    title: str
    total_bytes: int
    placed: list[Placed]
    marks: list[Mark]
    method: str
    reason: str | None


def stack_terms(breakdown: Mapping[str, int]) -> list[Part]:
    """The terms that are there, the largest first; a correction that lowers the estimate has no room of its own."""
    terms = sorted(((name, size) for name, size in breakdown.items() if size > 0), key=lambda term: -term[1])
    return [
        Part(
            name=NAMES.get(name, name.replace("_", " ")),
            value=size,
            look=f"term-{name}",
            title=f"{NAMES.get(name, name.replace('_', ' '))}: {say_bytes(size)}",
        )
        for name, size in terms
    ]


def show_prediction(job: JobOut, attempts: list[AttemptOut]) -> MemoryBar | None:
    """The prediction for the device that the job has or would get, with the peaks of its newest attempt."""
    estimate = job.estimate or {}
    newest = attempts[-1] if attempts else None
    kind = estimate.get("kind")
    if newest is not None:
        kind = "cpu" if "/cpu" in newest.device_id else "cuda"
    predicted: dict[str, Any] | None = (estimate.get("memory") or {}).get(kind)
    if predicted is None:
        return None
    figures = {"reserved": ("reserved", newest.reserved_bytes if newest else 0)}
    if newest is not None:
        figures |= {
            "measured": ("measured peak", newest.peak_device_bytes),
            "tensors": ("peak of tensors", newest.peak_allocated_bytes),
        }
    top = HEADROOM * max([predicted["total_bytes"], *(size for _, size in figures.values())])
    marks = [
        Mark(name=name, look=look, bytes=size, x=scale(size, top)) for look, (name, size) in figures.items() if size
    ]
    return MemoryBar(
        title=str(newest.device_type if newest else estimate.get("device_type") or kind),
        total_bytes=predicted["total_bytes"],
        placed=lay_out(stack_terms(predicted["breakdown"]), top),
        marks=marks,
        method=predicted.get("method", ""),
        reason=predicted.get("reason"),
    )


def show_fits(estimate: EstimateOut) -> list[MemoryBar]:
    """One bar for each device type of the pool, on one axis, with a mark where the largest such device ends."""
    sizes = [fit.largest_bytes for fit in estimate.devices] + [m.total_bytes for m in estimate.memory.values()]
    top = HEADROOM * max(sizes, default=1)
    bars = []
    for fit in estimate.devices:
        memory = estimate.memory.get(fit.kind)
        if memory is None:
            continue
        end = Mark(name="device", look="capacity", bytes=fit.largest_bytes, x=scale(fit.largest_bytes, top))
        bars.append(
            MemoryBar(
                title=fit.device_type,
                total_bytes=memory.total_bytes,
                placed=lay_out(stack_terms(memory.breakdown), top),
                marks=[end],
                method=memory.method,
                reason=memory.reason,
            )
        )
    return bars
