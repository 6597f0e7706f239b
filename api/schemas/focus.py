"""The ledger in FOCUS, the FinOps Open Cost and Usage Specification, version 1.2 (https://focus.finops.org, June 2025).

One row per ledger entry: every column that 1.2 calls mandatory, conditional ones whose condition holds here, and
ours with the prefix x_. Money is exact to the micro-dollar. A price times its quantity is the cost, rounded half up.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction

from api.schemas.wire import usd
from api.spreadsheets import Cell
from orchestrator.domain.budgets import BudgetPeriod, find_period
from orchestrator.domain.pricing import MICROSECONDS_PER_HOUR
from orchestrator.domain.usage_sums import LedgerLine, round_half_up
from orchestrator.services.usage import LedgerPage, Names

OURSELVES = "Tunepool"
"""Provider, publisher and issuer: the pool is its owner's own, and issues no invoices to anybody else."""
QUANTITY_DIGITS = 15
"""Decimal places of device-hours: at $1,000 an hour, product and cost differ by less than a millionth of a micro-dollar
before the cost is rounded."""
_SECOND, _MICROSECOND = timedelta(seconds=1), timedelta(microseconds=1)


@dataclass(frozen=True)
class _Charge:
    """One ledger entry, as the columns need it."""

    line: LedgerLine
    names: Names

    @property
    def microseconds(self) -> int:
        return (self.line.entry.ended_at - self.line.entry.started_at) // _MICROSECOND

    @property
    def device_microseconds(self) -> Fraction:
        rate = self.line.entry.rate
        return Fraction(self.microseconds * rate.reserved_bytes, rate.device_bytes)

    @property
    def list_cost(self) -> str:
        return usd(self.line.entry.amount_usd_micros)

    @property
    def billed_cost(self) -> str:
        return usd(self.line.entry.amount_usd_micros if self.line.entry.billed else 0)

    @property
    def price(self) -> str:
        return usd(self.line.entry.rate.price_usd_micros_per_hour)

    @property
    def month(self) -> tuple[datetime, datetime]:
        return find_period(BudgetPeriod.MONTH, self.line.entry.started_at)

    @property
    def description(self) -> str:
        entry, line = self.line.entry, self.line
        end = "" if entry.billed else "; lost to the platform, billed to nobody"
        return f"Fine-tuning of {line.model_name} on {entry.device_type}, attempt {line.attempt_number}{end}"

    @property
    def price_id(self) -> str:
        entry = self.line.entry
        return f"{entry.device_type}/{entry.rate.price_usd_micros_per_hour}"


COLUMNS: Mapping[str, Callable[[_Charge], Cell]] = {
    "BilledCost": lambda charge: charge.billed_cost,
    "BillingAccountId": lambda _: "tunepool",
    "BillingAccountName": lambda _: OURSELVES,
    "BillingCurrency": lambda _: "USD",
    "BillingPeriodEnd": lambda charge: _moment(charge.month[1]),
    "BillingPeriodStart": lambda charge: _moment(charge.month[0]),
    "ChargeCategory": lambda _: "Usage",
    "ChargeClass": lambda _: None,
    "ChargeDescription": lambda charge: charge.description,
    "ChargeFrequency": lambda _: "Usage-Based",
    "ChargePeriodEnd": lambda charge: _moment(charge.line.entry.ended_at + _SECOND - _MICROSECOND),
    "ChargePeriodStart": lambda charge: _moment(charge.line.entry.started_at),
    "ConsumedQuantity": lambda charge: _decimal(charge.device_microseconds / 1_000_000, QUANTITY_DIGITS),
    "ConsumedUnit": lambda _: "Device-Seconds",
    "ContractedCost": lambda charge: charge.list_cost,
    "ContractedUnitPrice": lambda charge: charge.price,
    "EffectiveCost": lambda charge: charge.billed_cost,
    "InvoiceIssuerName": lambda _: OURSELVES,
    "ListCost": lambda charge: charge.list_cost,
    "ListUnitPrice": lambda charge: charge.price,
    "PricingCategory": lambda _: "Standard",
    "PricingQuantity": lambda charge: _decimal(charge.device_microseconds / MICROSECONDS_PER_HOUR, QUANTITY_DIGITS),
    "PricingUnit": lambda _: "Device-Hours",
    "ProviderName": lambda _: OURSELVES,
    "PublisherName": lambda _: OURSELVES,
    "ResourceId": lambda charge: charge.line.entry.job_id,
    "ResourceName": lambda charge: charge.line.fine_tuned_model,
    "ResourceType": lambda _: "Fine-Tuning Job",
    "ServiceCategory": lambda _: "AI and Machine Learning",
    "ServiceName": lambda _: "Tunepool Fine-Tuning",
    "ServiceSubcategory": lambda _: "Machine Learning",
    "SkuId": lambda charge: charge.line.entry.device_type,
    "SkuMeter": lambda _: "Device Time",
    "SkuPriceDetails": lambda charge: json.dumps({"x_DeviceType": charge.line.entry.device_type}),
    "SkuPriceId": lambda charge: charge.price_id,
    "SubAccountId": lambda charge: charge.line.entry.team_id,
    "SubAccountName": lambda charge: charge.names.teams.get(charge.line.entry.team_id),
    "Tags": lambda charge: json.dumps(charge.line.metadata) if charge.line.metadata else None,
    "x_ArrayId": lambda charge: charge.line.array_id,
    "x_AttemptId": lambda charge: charge.line.entry.attempt_id,
    "x_AttemptInterval": lambda charge: charge.line.entry.interval,
    "x_BaseModel": lambda charge: charge.line.model_name,
    "x_DeviceId": lambda charge: charge.line.entry.device_id,
    "x_DeviceShare": lambda charge: f"{charge.line.entry.rate.reserved_bytes}/{charge.line.entry.rate.device_bytes}",
    "x_Seconds": lambda charge: _decimal(Fraction(charge.microseconds, 1_000_000), 6),
    "x_Use": lambda charge: charge.line.use.value,
    "x_UserId": lambda charge: charge.line.created_by,
    "x_UserName": lambda charge: charge.names.users.get(charge.line.created_by),
}


def list_focus_rows(page: LedgerPage) -> Iterator[list[Cell]]:
    """In the order of COLUMNS."""
    for line in page.lines:
        charge = _Charge(line, page.names)
        yield [value(charge) for value in COLUMNS.values()]


def _moment(moment: datetime) -> str:
    """FOCUS knows whole seconds; a charge period begins at the one before and ends at the one after, so that none is
    empty. `x_Seconds` has the exact time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _decimal(value: Fraction, digits: int) -> str:
    """Rounded half up to so many places, written without an exponent."""
    whole, rest = divmod(round_half_up(value * 10**digits), 10**digits)
    return f"{whole}.{rest:0{digits}d}"
