"""What a predicted time costs: time x fraction of each device x price, at the middle and at both ends of the range."""

from dataclasses import dataclass
from datetime import timedelta

from orchestrator.domain.estimate_time import Confidence, TimeEstimate
from orchestrator.domain.pricing import GangRate


@dataclass(frozen=True, kw_only=True)
class CostRange:
    """Micro-dollars for the predicted time and for the ends of its range, at one price. `confidence` is the time's."""

    usd_micros: int
    low_usd_micros: int
    high_usd_micros: int
    confidence: Confidence


def price_time(rate: GangRate, time: TimeEstimate) -> CostRange:
    low, middle, high = (
        rate.amount_usd_micros(timedelta(seconds=seconds))
        for seconds in (time.low_seconds, time.seconds, time.high_seconds)
    )
    return CostRange(usd_micros=middle, low_usd_micros=low, high_usd_micros=high, confidence=time.confidence)
