"""What is a base model? Read from its configs and the headers of its weights, some hundred kilobytes in all.

Refused here, before a job can name it: remote code, pickled weights, models that are no causal language models.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.model_configs import parse_config, read_facts, trim_config
from orchestrator.domain.models import ModelFacts, ModelFile, TensorHeader
from orchestrator.domain.safetensors import (
    LENGTH_BYTES,
    MalformedSafetensorsError,
    parse_header,
    read_header_length,
)
from orchestrator.domain.strict_json import show_name
from orchestrator.services.model_readers import ModelReader

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
TEMPLATES = ("chat_template.jinja", "chat_template.json")
SMALL_SUFFIXES = (".json", ".jinja", ".txt", ".model")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".gguf")
MAX_CONFIG_BYTES = 32 * 1024**2
MAX_SMALL_BYTES = 256 * 1024**2
HEADER_GUESS_BYTES = 128 * 1024
"""Read first: nine in ten headers are shorter."""


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """`files` are those that a node needs; `content_sha256` covers their names, sizes, configs and headers.

    `config` is what of config.json is kept; see `domain.model_configs.trim_config`.
    """

    facts: ModelFacts
    config: dict[str, Any] | None
    files: tuple[ModelFile, ...]
    content_sha256: str


def inspect_model(reader: ModelReader, *, hash_content: bool) -> Inspected:
    """Raises InvalidRequestError (bad_model, remote_code) with the reason. Without `hash_content` the hash is empty."""
    sizes = {file.path: file.size_bytes for file in reader.list_files()}
    if CONFIG not in sizes:
        hint = "; this is an adapter, not a base model" if "adapter_config.json" in sizes else ""
        raise InvalidRequestError(f"there is no {CONFIG}{hint}", code="bad_model")
    config = parse_config(_read_config(reader, CONFIG, sizes), CONFIG)
    tokenizer = parse_config(_read_config(reader, TOKENIZER_CONFIG, sizes), TOKENIZER_CONFIG)
    if not any(name in sizes for name in TOKENIZERS):
        raise InvalidRequestError("there is no tokenizer.json", code="bad_model")
    digest = hashlib.sha256()
    tensors: list[TensorHeader] = []
    weights = _choose_weights(reader, sizes)
    kept = weights + [name for name in sizes if name.endswith(SMALL_SUFFIXES)]
    for name in sorted(kept):
        if name in weights:
            raw = _read_header(reader, name, sizes[name])
            tensors += _read_tensors(raw, name, sizes[name])
            parts: Iterator[bytes] = iter((raw,))
        else:
            parts = _read_whole(reader, name, sizes[name])
        if hash_content:
            _add_to_digest(digest, name, sizes[name], parts)
    facts = read_facts(
        config, tensors, chat_template=bool(tokenizer.get("chat_template")) or any(name in sizes for name in TEMPLATES)
    )
    return Inspected(
        facts=facts,
        config=trim_config(config),
        files=tuple(ModelFile(path=name, size_bytes=sizes[name]) for name in sorted(kept)),
        content_sha256=digest.hexdigest() if hash_content else "",
    )


def _read_config(reader: ModelReader, name: str, sizes: Mapping[str, int]) -> bytes:
    """A config file; one that is not there says nothing."""
    if name not in sizes:
        return b"{}"
    if sizes[name] > MAX_CONFIG_BYTES:
        raise InvalidRequestError(f"{name} has {sizes[name]} bytes; at most {MAX_CONFIG_BYTES}", code="bad_model")
    return reader.read(name, 0, max(1, sizes[name]))


def _choose_weights(reader: ModelReader, sizes: Mapping[str, int]) -> list[str]:
    """The files that transformers would load: those of the index, or the single one."""
    if INDEX in sizes:
        index = parse_config(_read_config(reader, INDEX, sizes), INDEX).get("weight_map")
        names = set(index.values()) if isinstance(index, dict) and all(map(_is_plain, index.values())) else set()
        missing = sorted(names - sizes.keys())
        if not names or missing:
            lacking = f": {show_name(missing[0])} is missing" if missing else ""
            raise InvalidRequestError(f"{INDEX} does not list the model's files{lacking}", code="bad_model")
        return sorted(names)
    if SINGLE in sizes:
        return [SINGLE]
    pickled = next((name for name in sizes if name.endswith(PICKLE_SUFFIXES)), None)
    if pickled is not None:
        raise InvalidRequestError(
            f"its weights are in {show_name(pickled)}; only safetensors are read, because pickled files can run code",
            code="bad_model",
        )
    raise InvalidRequestError(f"there is neither {SINGLE} nor {INDEX}", code="bad_model")


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and "/" not in name


def _read_header(reader: ModelReader, name: str, size_bytes: int) -> bytes:
    first = reader.read(name, 0, min(max(1, size_bytes), HEADER_GUESS_BYTES))
    try:
        end = LENGTH_BYTES + read_header_length(first, file_bytes=size_bytes)
    except MalformedSafetensorsError as error:
        raise _bad_weights(name, error) from None
    if len(first) < end:
        first += reader.read(name, len(first), end - len(first))
    return first[LENGTH_BYTES:end]


def _read_tensors(raw: bytes, name: str, size_bytes: int) -> list[TensorHeader]:
    try:
        header = parse_header(raw, data_bytes=size_bytes - LENGTH_BYTES - len(raw))
    except MalformedSafetensorsError as error:
        raise _bad_weights(name, error) from None
    return [TensorHeader(name=tensor.name, shape=tensor.shape) for tensor in header.tensors]


def _bad_weights(name: str, error: MalformedSafetensorsError) -> InvalidRequestError:
    return InvalidRequestError(f"{name} is no safetensors file: {error.message}", code="bad_model")


def _read_whole(reader: ModelReader, name: str, size_bytes: int) -> Iterator[bytes]:
    """A small file in pieces; it is read only if somebody asks for them."""
    if size_bytes > MAX_SMALL_BYTES:
        raise InvalidRequestError(f"{name} has {size_bytes} bytes; at most {MAX_SMALL_BYTES}", code="bad_model")
    for start in range(0, size_bytes, MAX_CONFIG_BYTES):
        yield reader.read(name, start, min(MAX_CONFIG_BYTES, size_bytes - start))


def _add_to_digest(digest: "hashlib._Hash", name: str, size_bytes: int, parts: Iterator[bytes]) -> None:
    content = hashlib.sha256()
    for part in parts:
        content.update(part)
    digest.update(f"{len(name.encode())}:{name}:{size_bytes}:{content.hexdigest()}\n".encode())
