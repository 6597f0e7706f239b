"""The form of a new job and the request that it stands for: what is left empty is left to 'auto'."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.spec import AUTO, JobSpec

Values = dict[str, str]
"""The fields of the form as they are typed; one that is absent is empty."""
HYPER = "method.supervised.hyperparameters"


@dataclass(frozen=True, kw_only=True)
class Field:
    """`path` is where the value goes in a job's request."""

    name: str
    path: str
    parse: Callable[[str], Any]


def _whole(text: str) -> int:
    return int(text)


def _yes(text: str) -> bool:
    return text in {"yes", "on", "true"}


def _targets(text: str) -> str | list[str]:
    return text if text in {AUTO, "all-linear"} else [part.strip() for part in text.split(",") if part.strip()]


FIELDS = (
    Field(name="model", path="model", parse=str),
    Field(name="training_file", path="training_file", parse=str),
    Field(name="validation_file", path="validation_file", parse=str),
    Field(name="suffix", path="suffix", parse=str),
    Field(name="seed", path="seed", parse=_whole),
    Field(name="priority", path="priority", parse=_whole),
    Field(name="max_cost_usd", path="max_cost_usd", parse=str),
    Field(name="epochs", path=f"{HYPER}.n_epochs", parse=_whole),
    Field(name="batch_size", path=f"{HYPER}.batch_size", parse=_whole),
    Field(name="learning_rate", path="training.learning_rate", parse=float),
    Field(name="max_seq_length", path="training.max_seq_length", parse=_whole),
    Field(name="micro_batch_size", path="training.micro_batch_size", parse=_whole),
    Field(name="gradient_checkpointing", path="training.gradient_checkpointing", parse=_yes),
    Field(name="optimizer", path="training.optimizer", parse=str),
    Field(name="scheduler", path="training.scheduler", parse=str),
    Field(name="warmup_ratio", path="training.warmup_ratio", parse=float),
    Field(name="max_steps", path="training.max_steps", parse=_whole),
    Field(name="lora_r", path="lora.r", parse=_whole),
    Field(name="lora_alpha", path="lora.alpha", parse=_whole),
    Field(name="lora_dropout", path="lora.dropout", parse=float),
    Field(name="lora_targets", path="lora.target_modules", parse=_targets),
    Field(name="quantization", path="quantization.type", parse=str),
    Field(name="device_type", path="resources.device_type", parse=str),
    Field(name="count", path="resources.count", parse=_whole),
    Field(name="exclusive", path="resources.exclusive", parse=_yes),
)
PRESETS: Mapping[str, tuple[str, str, Values]] = {
    "qlora": ("QLoRA", "4-bit base weights, the least memory", {"quantization": "nf4", "lora_r": "16"}),
    "lora": ("LoRA", "16-bit base weights, faster steps", {"quantization": "none", "lora_r": "16"}),
    "trial": ("Trial run", "20 steps, to see that it works", {"quantization": "nf4", "lora_r": "8", "max_steps": "20"}),
}
"""By name: title, what it is for, and the fields that it sets. It leaves model, files and all others alone."""


def read_values(given: Mapping[str, Any]) -> Values:
    """The form's fields among what was sent, without blanks around and without the empty ones."""
    found = {field.name: str(given.get(field.name, "")).strip() for field in FIELDS}
    return {name: text for name, text in found.items() if text}


def build_body(values: Values) -> dict[str, Any]:
    """The request. Raises InvalidRequestError naming the field for a number that is none."""
    body: dict[str, Any] = {}
    for field in FIELDS:
        if field.name not in values:
            continue
        try:
            value = field.parse(values[field.name])
        except ValueError:
            shown = values[field.name][:40]
            raise InvalidRequestError(f"{field.path} should be a number, got {shown!r}", param=field.path) from None
        _put(body, field.path.split("."), value)
    return body


def _put(body: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        body = body.setdefault(part, {})
    body[path[-1]] = value


def fill_from(spec: JobSpec) -> Values:
    """The form for a job like this one: what it asked for, and nothing where it left the choice."""
    asked = spec.model_dump(mode="json", exclude_defaults=True)
    values: Values = {}
    for field in FIELDS:
        found: Any = asked
        for part in field.path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found is None or found == AUTO:
            continue
        values[field.name] = _say(found)
    return values


def _say(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
