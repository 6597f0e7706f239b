"""What a measurement may change in an estimate, without knowing how the estimate was made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Method = Literal["traced", "closed_form"]
"""How memory is predicted."""
CALIBRATION_TERM = "calibration"
"""In a memory estimate's breakdown: what was added to, or taken from, the raw prediction."""


@dataclass(frozen=True, kw_only=True)
class Correction:
    """Multiply a term's seconds by `factor`; `runs` of the same kind stand behind it.

    `spread` is half the range on a logarithmic scale: the truth is expected within `factor` times e^±spread.
    """

    factor: float
    spread: float
    runs: int

    def apply(self, seconds: float) -> tuple[float, float, float]:
        """(low, expected, high) seconds."""
        expected = seconds * self.factor
        return expected * math.exp(-self.spread), expected, expected * math.exp(self.spread)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """`memory_factors` times the prediction, by how that was made, is to be reserved; `memory_runs` and `time_runs`
    count attempts of the same kind, `related_runs` those of any kind on the device type. `corrections` are by term of a
    time estimate."""

    memory_factors: Mapping[Method, float] = field(default_factory=dict)
    memory_runs: int = 0
    time_runs: int = 0
    related_runs: int = 0
    corrections: Mapping[str, Correction] = field(default_factory=dict)

    def memory_factor(self, method: Method) -> float:
        return self.memory_factors.get(method, 1.0)


UNCALIBRATED = Calibration()
