"""What all answers have in common: Unix seconds, dollars as strings beside integer micro-dollars, and list pages.

No answer has a default that could hide that something is missing.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Money = Literal["usd"]


class Wire(BaseModel):
    """Answers and requests of this API; the text below a field is its description in the OpenAPI document."""

    model_config = ConfigDict(use_attribute_docstrings=True, protected_namespaces=(), frozen=True)


class Asked(Wire):
    """A request body: fields that are not known are refused, so that a typing mistake is an error."""

    model_config = ConfigDict(extra="forbid")


class Identified(Wire):
    """What can stand in a list."""

    id: str


Item = TypeVar("Item", bound=Identified)


class ListPage(Wire, Generic[Item]):
    """One page. The next one begins after the last: pass `last_id` as `after`."""

    # For docstrings of fields, pydantic reads the source of every caller each time that a list of something is made.
    model_config = ConfigDict(use_attribute_docstrings=False)

    object: Literal["list"]
    data: list[Item]
    has_more: bool = Field(description="Whether at least one item follows the last one.")
    first_id: str | None
    last_id: str | None


def list_page(items: Sequence[Item], *, has_more: bool) -> ListPage[Item]:
    data = list(items)
    return ListPage(
        object="list",
        data=data,
        has_more=has_more,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


def unix(moment: datetime) -> int:
    """Whole Unix seconds, rounded down."""
    return int(moment.timestamp())


def find_unix(moment: datetime | None) -> int | None:
    return None if moment is None else unix(moment)


def usd(micros: int) -> str:
    """Dollars with six decimal places, exact: 1234567 is '1.234567'."""
    return f"{Decimal(micros) / 1_000_000:.6f}"
