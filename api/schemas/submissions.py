"""What a client may say about a job: to submit one, or to estimate one.

Null means 'not given' for every field at the top level and inside `method`, because stock clients send it.
"""

from typing import Any, TypeVar

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.domain.spec import (
    AUTO,
    EstimateSpec,
    Hyperparameters,
    JobShape,
    JobSpec,
    Method,
    Supervised,
)

Shape = TypeVar("Shape", bound=JobShape)
EXAMPLE: dict[str, Any] = {
    "model": "SmolLM2-135M-Instruct",
    "training_file": "file-0199a7c4d0b87c9ab4d1f3f0a2c6e7d8",
    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
    "suffix": "support",
    "quantization": {"type": "nf4"},
    "lora": {"r": 16},
    "max_cost_usd": "2.50",
}
METHODS_TO_COME = frozenset({"dpo", "reinforcement"})


class AskedShape(JobShape):
    """What requests about jobs may say beyond the spec itself."""

    hyperparameters: Hyperparameters | None = Field(default=None, json_schema_extra={"deprecated": True})
    """Older form of method.supervised.hyperparameters."""
    integrations: list[Any] | None = None
    """None is supported yet; leave it out, or empty."""
    team: str | None = None
    """Another team's name or id; admins only."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given = {name: item for name, item in value.items() if item is not None}
        return given | {"method": _without_nulls(given["method"])} if "method" in given else given

    @field_validator("method", mode="before")
    @classmethod
    def _method_is_supported(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("type") in METHODS_TO_COME:
            raise PydanticCustomError(
                "unsupported_method", "{method} is not supported yet, use 'supervised'", {"method": repr(value["type"])}
            )
        return value

    @field_validator("integrations")
    @classmethod
    def _no_integrations(cls, value: list[Any] | None) -> list[Any] | None:
        if value:
            raise PydanticCustomError(
                "unsupported_integration",
                "integrations are not supported yet; GET …/metrics and …/logs have what they would show",
            )
        return value

    @model_validator(mode="after")
    def _hyperparameters_agree(self) -> "AskedShape":
        old = self.hyperparameters
        if old is None:
            return self
        new = self.method.supervised.hyperparameters
        if new.model_fields_set and new != old:
            raise ValueError("hyperparameters and method.supervised.hyperparameters differ; give only the latter")
        if old.learning_rate_multiplier != AUTO and self.training.learning_rate is not None:
            raise ValueError("give training.learning_rate or hyperparameters.learning_rate_multiplier, not both")
        return self

    def spec_as(self, shape: type[Shape]) -> Shape:
        """The spec alone, the older `hyperparameters` moved into `method`."""
        given = {name: getattr(self, name) for name in shape.model_fields}
        if self.hyperparameters is not None:
            given["method"] = Method(supervised=Supervised(hyperparameters=self.hyperparameters))
        return shape.model_validate(given)


class JobCreate(AskedShape, JobSpec):
    """What to train. `model` and `training_file` are enough; everything else has a sensible 'auto'."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    def to_spec(self) -> JobSpec:
        return self.spec_as(JobSpec)


class EstimateCreate(AskedShape, EstimateSpec):
    """A job to be estimated: as it would be submitted, or with its rows described instead of a file."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "SmolLM2-135M-Instruct", "rows": 150}]})

    def to_spec(self) -> EstimateSpec:
        return self.spec_as(EstimateSpec)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return value
