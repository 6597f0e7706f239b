"""Facts about a base model that sizing and checking need, read from its config and its safetensors headers.

No weights are loaded for them and no torch is imported. `linear_groups` lists the model's linear layers by the last
part of their module name, because LoRA targets are named so.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from orchestrator.domain.errors import InvalidRequestError


class ModelSourceKind(StrEnum):
    PATH = "path"
    S3 = "s3"
    HUB = "hub"


class LinearGroup(BaseModel):
    """`count` linear layers of one name and shape; weight [out_features, in_features]."""

    model_config = ConfigDict(frozen=True)

    name: str
    out_features: int
    in_features: int
    count: int

    @property
    def parameters(self) -> int:
        return self.out_features * self.in_features * self.count


class ModelFacts(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model_type: str
    architecture: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_context_tokens: int
    total_parameters: int
    tied_embeddings: bool
    linear_groups: tuple[LinearGroup, ...]
    has_chat_template: bool

    @property
    def linear_names(self) -> frozenset[str]:
        return frozenset(group.name for group in self.linear_groups)

    @property
    def linear_parameters(self) -> int:
        return sum(group.parameters for group in self.linear_groups)

    @property
    def linear_widths(self) -> int:
        """Elements that all linear layers read and write for one token."""
        return sum((group.in_features + group.out_features) * group.count for group in self.linear_groups)


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One file of a base model; `path` is relative to the model's root."""

    path: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class TensorHeader:
    """A tensor as a safetensors header names it."""

    name: str
    shape: tuple[int, ...]


def read_model_facts(config: Mapping[str, Any], tensors: Iterable[TensorHeader], *, chat_template: bool) -> ModelFacts:
    """Derive the facts from a transformers config and the names and shapes of all tensors.

    Raises InvalidRequestError when the config is not that of a causal language model that we can size.
    """
    text = config.get("text_config") or config
    missing = [key for key in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size") if key not in text]
    if missing:
        raise InvalidRequestError(f"config.json lacks {', '.join(missing)}; is this a causal language model?")
    architectures = config.get("architectures") or ()
    architecture = str(architectures[0]) if architectures else ""
    if not architecture.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        raise InvalidRequestError(f"architecture {architecture or 'unknown'!r} is not a causal language model")
    heads = int(text.get("num_attention_heads") or 1)
    headers = tuple(tensors)
    hidden = int(text["hidden_size"])
    groups = _group_linears(headers)
    return ModelFacts(
        model_type=str(text["model_type"]),
        architecture=architecture,
        hidden_size=hidden,
        intermediate_size=int(text.get("intermediate_size") or 4 * hidden),
        num_layers=int(text["num_hidden_layers"]),
        num_attention_heads=heads,
        num_key_value_heads=int(text.get("num_key_value_heads") or heads),
        head_dim=int(text.get("head_dim") or hidden // heads),
        vocab_size=int(text["vocab_size"]),
        max_context_tokens=int(text.get("max_position_embeddings") or 2048),
        total_parameters=sum(_product(header.shape) for header in headers),
        tied_embeddings=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", True))),
        linear_groups=groups,
        has_chat_template=chat_template,
    )


def _group_linears(headers: Iterable[TensorHeader]) -> tuple[LinearGroup, ...]:
    """Two-dimensional weights inside the layers are linear layers; embeddings and the output head are not targets."""
    counts: dict[tuple[str, int, int], int] = {}
    for header in headers:
        parts = header.name.split(".")
        if len(header.shape) != 2 or parts[-1] != "weight" or not any(part.isdigit() for part in parts):
            continue
        key = (parts[-2], header.shape[0], header.shape[1])
        counts[key] = counts.get(key, 0) + 1
    return tuple(
        LinearGroup(name=name, out_features=out, in_features=into, count=count)
        for (name, out, into), count in sorted(counts.items())
    )


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
