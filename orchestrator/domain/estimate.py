"""How much memory, time and money a plan will take: a first closed form.

Every term is a mechanism with its source; the sum errs high. The same functions are called by placement, by the API and
by validation, so a better method can replace the formulas behind them.
"""

from dataclasses import dataclass
from typing import Literal

from orchestrator.domain.models import ModelFacts
from orchestrator.domain.plan import TrainingPlan

DeviceKind = Literal["cpu", "cuda"]

BREAKDOWN_TERMS = (
    "base_weights",
    "quantization_constants",
    "adapters",
    "gradients",
    "optimizer",
    "activations",
    "logits_and_loss",
    "runtime",
    "margin",
)


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one device. `total_bytes` is the sum of the breakdown and what placement reserves."""

    total_bytes: int
    breakdown: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class TimeEstimate:
    """Seconds on one device, with the range that the estimate is honest about."""

    seconds: float
    low_seconds: float
    high_seconds: float
    steps: int
    tokens: int


def estimate_memory(plan: TrainingPlan, facts: ModelFacts, kind: DeviceKind) -> MemoryEstimate:
    raise NotImplementedError


def estimate_time(
    plan: TrainingPlan, facts: ModelFacts, *, total_tokens: int, rows: int, kind: DeviceKind
) -> TimeEstimate:
    raise NotImplementedError
