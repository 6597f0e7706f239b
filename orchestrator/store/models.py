"""The pool's registry of base models."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping, delete, select, update

from orchestrator.domain.errors import NotFoundError
from orchestrator.domain.models import ModelFacts, ModelFile, ModelSourceKind
from orchestrator.domain.pool import BaseModel
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.files import base_models


def upsert_model(tx: WriteTx, model: BaseModel) -> BaseModel:
    """Register, or point a known name to another source; `created_at` is the first registration's."""
    values = {
        "name": model.name,
        "source": model.source,
        "location": model.location,
        "revision": model.revision,
        "facts": model.facts.model_dump(mode="json"),
        "files": [[file.path, file.size_bytes] for file in model.files],
        "created_at": model.created_at,
        "config": model.config,
    }
    changed = {name: value for name, value in values.items() if name not in {"name", "created_at"}}
    statement = tx.insert(base_models).values(values)
    row = tx.row(statement.on_conflict_do_update(index_elements=["name"], set_=changed).returning(base_models))
    assert row is not None
    return _model(row)


def record_config(tx: WriteTx, model: BaseModel, config: Mapping[str, Any]) -> None:
    """For a model that was registered without; nothing when it has another revision by now."""
    same = (base_models.c.name == model.name) & (base_models.c.revision == model.revision)
    tx.execute(update(base_models).where(same).values(config=config))


def get_model(tx: ReadTx, name: str) -> BaseModel:
    model = find_model(tx, name)
    if model is None:
        raise NotFoundError(f"No such base model: {name}", code="model_not_found")
    return model


def find_model(tx: ReadTx, name: str) -> BaseModel | None:
    row = tx.row(select(base_models).where(base_models.c.name == name))
    return None if row is None else _model(row)


def list_models(tx: ReadTx) -> list[BaseModel]:
    return [_model(row) for row in tx.rows(select(base_models).order_by(base_models.c.name))]


def delete_model(tx: WriteTx, name: str) -> None:
    """Raises NotFoundError. Adapters that were trained on it stay."""
    if not tx.execute(delete(base_models).where(base_models.c.name == name)):
        raise NotFoundError(f"No such base model: {name}", code="model_not_found")


def _model(row: RowMapping) -> BaseModel:
    return BaseModel(
        name=row["name"],
        source=ModelSourceKind(row["source"]),
        location=row["location"],
        revision=row["revision"],
        facts=ModelFacts.model_validate(row["facts"]),
        files=tuple(ModelFile(path=path, size_bytes=size) for path, size in row["files"]),
        created_at=row["created_at"],
        config=row["config"],
    )
