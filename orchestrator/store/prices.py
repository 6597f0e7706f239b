"""The price book: append-only versions. The newest one holds for attempts that start after it."""

from sqlalchemy import RowMapping, func, select

from orchestrator.domain.pool import Price
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.pool import prices

DEFAULT_USD_MICROS_PER_HOUR = {"cpu": 100_000}
"""What a device costs before an admin sets a price. Ten cents for a whole CPU machine is what clouds ask for two to
four virtual cores with 16 to 32 GiB."""
OTHER_USD_MICROS_PER_HOUR = 1_000_000
"""One dollar for a GPU: high enough that a forgotten price is noticed, and budgets stop jobs rather early than late."""


def insert_price(tx: WriteTx, device_type: str, usd_micros_per_hour: int) -> Price:
    """The next version. Raises ConflictError when another one came in between."""
    last = tx.scalar(select(func.max(prices.c.version)).where(prices.c.device_type == device_type))
    statement = tx.insert(prices).values(
        device_type=device_type,
        version=(last or 0) + 1,
        usd_micros_per_hour=usd_micros_per_hour,
        created_at=tx.now(),
    )
    row = tx.row(statement.returning(prices))
    assert row is not None
    return _price(row)


def find_price(tx: ReadTx, device_type: str) -> Price | None:
    """The price that holds now; None when the type has none."""
    query = select(prices).where(prices.c.device_type == device_type)
    row = tx.row(query.order_by(prices.c.version.desc()).limit(1))
    return None if row is None else _price(row)


def read_price(tx: ReadTx, device_type: str) -> int:
    """The price of the whole device that holds now, in micro-dollars per hour."""
    price = find_price(tx, device_type)
    if price is not None:
        return price.usd_micros_per_hour
    return DEFAULT_USD_MICROS_PER_HOUR.get(device_type, OTHER_USD_MICROS_PER_HOUR)


def list_prices(tx: ReadTx) -> list[Price]:
    """All versions, the newest of each device type first."""
    return [_price(row) for row in tx.rows(select(prices).order_by(prices.c.device_type, prices.c.version.desc()))]


def _price(row: RowMapping) -> Price:
    return Price(
        device_type=row["device_type"],
        version=row["version"],
        usd_micros_per_hour=row["usd_micros_per_hour"],
        created_at=row["created_at"],
    )
