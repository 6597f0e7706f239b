"""Cursor pages over (created_at, id): stable while rows arrive, and as cheap on page 1000 as on page 1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, RowMapping, Table, select, tuple_

from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.pages import Page
from orchestrator.store.session import ReadTx

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What is listed: the rows of `table` where all of `where` hold, in the order of `order_by`.

    `order_by` ends in a column that is unique among them; `key` is the column that `after` names.
    """

    table: Table
    key: Column[str]
    order_by: tuple[Column[Any], ...]
    where: Sequence[ColumnElement[bool]]


def read_page(
    tx: ReadTx,
    listing: Listing,
    make: Callable[[RowMapping], T],
    *,
    limit: int,
    after: str | None,
    descending: bool = True,
) -> Page[T]:
    """At most `limit` items behind the row `after`.

    Raises InvalidRequestError (param after) when no row of that name is in the listing, which another team's is not.
    """
    query = select(listing.table).where(*listing.where)
    if after is not None:
        query = query.where(_behind(tx, listing, after, descending=descending))
    ordered = query.order_by(*(column.desc() if descending else column.asc() for column in listing.order_by))
    rows = tx.rows(ordered.limit(limit + 1))
    return Page(tuple(make(row) for row in rows[:limit]), len(rows) > limit)


def _behind(tx: ReadTx, listing: Listing, after: str, *, descending: bool) -> ColumnElement[bool]:
    at = tx.row(select(*listing.order_by).where(listing.key == after, *listing.where))
    if at is None:
        raise InvalidRequestError(f"after: no such object in this list: {after!r}", param="after")
    columns = tuple_(*listing.order_by)
    mark = tuple(at[column.name] for column in listing.order_by)
    return columns < mark if descending else columns > mark
