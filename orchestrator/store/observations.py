"""Observations of ended attempts: written once, read by kind, newest first, from the finest kind to the coarsest."""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, delete, select

from orchestrator.domain.calibration import calibrate
from orchestrator.domain.estimate_terms import Calibration
from orchestrator.domain.observations import ESTIMATORS, JobKind, Observation
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.observations import observations

RECENT = 64
"""Observations that a level learns from: enough for an upper quantile, few enough to follow a change of libraries."""
KIND_COLUMNS = ("base_model", "family", "method", "quantization", "length_tokens", "device_type")
LEVELS = (
    ("device_type",),
    ("family", "quantization", "device_type"),
    ("base_model", "method", "quantization", "length_tokens", "device_type"),
)
"""What jobs of one level have in common, from the coarsest to the finest. Each has an index."""
MEASURED = (
    "attempt_id",
    "job_id",
    "team_id",
    "ended_at",
    "estimator",
    "succeeded",
    "out_of_memory",
    "resumed",
    "predicted_bytes",
    "told_bytes",
    "reserved_bytes",
    "measured_bytes",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "peak_device_bytes",
    "steps",
    "trained_tokens",
    "seen_tokens",
    "predicted_seconds",
    "phase_seconds",
    "told_seconds",
    "run_seconds",
)


def insert_observation(tx: WriteTx, seen: Observation) -> None:
    """Writing that of the same attempt again changes nothing."""
    values: dict[str, Any] = {name: getattr(seen, name) for name in MEASURED}
    values |= {name: getattr(seen.kind, name) for name in KIND_COLUMNS}
    values |= {"predicted_seconds": dict(seen.predicted_seconds), "phase_seconds": dict(seen.phase_seconds)}
    tx.execute(tx.insert(observations).values(values).on_conflict_do_nothing(index_elements=["attempt_id"]))


def list_newest(tx: ReadTx, limit: int) -> list[Observation]:
    """Of the whole pool, newest first."""
    order = (observations.c.ended_at.desc(), observations.c.attempt_id.desc())
    return [_observation(row) for row in tx.rows(select(observations).order_by(*order).limit(limit))]


def list_like(tx: ReadTx, kind: JobKind, level: tuple[str, ...], limit: int = RECENT) -> list[Observation]:
    """Those that have the level's columns in common with `kind`, newest first: `limit` for each way to predict memory,
    so that one which is hardly used any more keeps what it has learned."""
    found: list[Observation] = []
    for estimator in ESTIMATORS.values():
        query = select(observations).where(*_same(kind, level), observations.c.estimator == estimator)
        newest = query.order_by(observations.c.ended_at.desc()).limit(limit)
        found.extend(_observation(row) for row in tx.rows(newest))
    return sorted(found, key=lambda seen: seen.ended_at, reverse=True)


def read_calibration(tx: ReadTx, kind: JobKind) -> Calibration:
    """What jobs of this kind, and failing that of related kinds, have taught: six short reads."""
    return calibrate([list_like(tx, kind, level) for level in LEVELS])


def delete_older(tx: WriteTx, before: datetime) -> int:
    """Returns how many went."""
    return tx.execute(delete(observations).where(observations.c.ended_at < before))


def _same(kind: JobKind, level: tuple[str, ...]) -> list[ColumnElement[bool]]:
    return [observations.c[name] == getattr(kind, name) for name in level]


def _observation(row: RowMapping) -> Observation:
    return Observation(
        kind=JobKind(**{name: row[name] for name in KIND_COLUMNS}), **{name: row[name] for name in MEASURED}
    )
