"""What a team has used lately: rate x time, forgotten by half in each half-life.

Measured in reference-device-seconds. One number per team, so that a day-old burst weighs half of today's. A run of
constant rate r over t seconds adds

    r x h / ln 2 x (1 - 2^(-t / h)),      h the half-life,

which is r x t for short runs and never more than r x h / ln 2.
"""

import math

HALF_LIFE_SECONDS = 86_400.0
"""A day (scheduling study, 3.7): long enough that a night's run is remembered in the morning."""


def decay(usage: float, seconds: float, half_life_seconds: float = HALF_LIFE_SECONDS) -> float:
    """What is left of `usage` after `seconds`; a negative time leaves it as it is."""
    return usage * math.exp2(-max(0.0, seconds) / half_life_seconds)


def accrue(rate: float, seconds: float, half_life_seconds: float = HALF_LIFE_SECONDS) -> float:
    """What a run of `rate` reference devices over the last `seconds` has left now."""
    if seconds <= 0:
        return 0.0
    return rate * half_life_seconds / math.log(2) * (1 - math.exp2(-seconds / half_life_seconds))
