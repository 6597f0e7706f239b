"""What a measurement may change in an estimate, without knowing how the estimate was made."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

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
    """`memory_factor` times the prediction is to be reserved; `memory_runs` and `time_runs` count attempts of the same
    kind, `related_runs` those of any kind on the device type. `corrections` are by term of a time estimate."""

    memory_factor: float = 1.0
    memory_runs: int = 0
    time_runs: int = 0
    related_runs: int = 0
    corrections: Mapping[str, Correction] = field(default_factory=dict)


UNCALIBRATED = Calibration()
