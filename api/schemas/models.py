"""Models as OpenAI lists them (base models and the caller's fine-tuned ones), and the registry of base models."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from api.schemas.wire import Asked, Identified, Wire, unix
from orchestrator.domain.artifacts import Adapter
from orchestrator.domain.pool import BaseModel


class ModelOut(Wire):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    shutdown_date: None

    @classmethod
    def of_base(cls, model: BaseModel) -> "ModelOut":
        return cls(
            id=model.name, object="model", created=unix(model.created_at), owned_by="tunepool", shutdown_date=None
        )

    @classmethod
    def of_adapter(cls, adapter: Adapter) -> "ModelOut":
        return cls(
            id=adapter.name,
            object="model",
            created=unix(adapter.created_at),
            owned_by=adapter.team_id,
            shutdown_date=None,
        )


class ModelList(Wire):
    """All models at once: OpenAI's client does not page through them."""

    object: Literal["list"]
    data: list[ModelOut]


class ModelDeletedOut(Wire):
    id: str
    object: Literal["model"]
    deleted: Literal[True]


class BaseModelCreate(Asked):
    """Register a base model under a name of the pool's own."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "smol", "location": "HuggingFaceTB/SmolLM2-135M-Instruct"}]}
    )

    name: Annotated[str, Field(min_length=1, max_length=256)]
    """What jobs will call it."""
    location: Annotated[str, Field(min_length=1, max_length=1024)]
    """A folder below an allowed root, an s3:// prefix, or a hub id."""


class BaseModelDeletedOut(Wire):
    id: str
    object: Literal["base_model"]
    deleted: Literal[True]


class BaseModelOut(Identified):
    """The model's name."""

    object: Literal["base_model"]
    source: Literal["path", "s3", "hub"]
    location: str
    revision: str
    """The commit of a hub model, a hash of the contents of others."""
    created_at: int
    size_bytes: int
    facts: dict[str, Any]
    """What sizing knows of it: layers, widths, context, vocabulary, and the modules that LoRA can target."""

    @classmethod
    def of(cls, model: BaseModel) -> "BaseModelOut":
        return cls(
            id=model.name,
            object="base_model",
            source=model.source.value,
            location=model.location,
            revision=model.revision,
            created_at=unix(model.created_at),
            size_bytes=sum(file.size_bytes for file in model.files),
            facts=model.facts.model_dump(mode="json"),
        )
