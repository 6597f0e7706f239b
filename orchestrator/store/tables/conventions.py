"""What all tables share: the names of constraints, and how a column is limited to the values of an enumeration."""

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Integer,
    MetaData,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
RowId = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only in a column that is declared INTEGER."""


def sql_list(values: Iterable[str]) -> str:
    return ", ".join(f"'{value}'" for value in sorted(values))


def one_of(column: str, values: type[StrEnum] | Iterable[str]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({sql_list(values)})", name=column)
