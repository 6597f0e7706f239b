"""What a measurement may change in an estimate, without knowing how the estimate was made."""

import math
from dataclasses import dataclass

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
