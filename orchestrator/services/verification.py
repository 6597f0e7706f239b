"""Reads every byte of an uploaded adapter once, and tells whether it may be published.

Nothing that the worker said is believed: names, sizes and checksums are compared with what the object store holds, the
weights are scanned for values that are not finite, and the configs are checked before any loader could see them.
"""

import hashlib
import json
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.domain.adapter_checks import (
    CONFIG,
    MAX_FILE_BYTES,
    PARSED_FILES,
    WEIGHTS,
    BadArtifactError,
    check_config,
    check_tensors,
)
from orchestrator.domain.errors import InvalidRequestError, NotFoundError
from orchestrator.domain.model_configs import parse_config
from orchestrator.domain.models import ModelFacts
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.protocol import StoredFile
from orchestrator.domain.safetensors import MalformedSafetensorsError
from orchestrator.domain.safetensors_scan import SafetensorsScan
from orchestrator.domain.strict_json import StrictJsonError, parse_json, show_name
from orchestrator.objects.client import Objects
from orchestrator.objects.layout import MANIFEST_NAME

MAX_LINEAGE_BYTES = 1024**2


class NotFiniteError(BadArtifactError):
    """The weights hold NaN or infinity: training has diverged."""

    code = "loss_not_finite"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the adapter must be. `facts` are None when the base model is registered no more."""

    plan: TrainingPlan
    facts: ModelFacts | None
    base_models: Collection[str]


@dataclass(frozen=True, kw_only=True)
class VerifiedFile:
    """`etag` is the store's mark of the version whose bytes were read."""

    file: StoredFile
    etag: str


def verify_files(
    objects: Objects, prefix: str, said: Sequence[StoredFile], expected: Expected
) -> tuple[VerifiedFile, ...]:
    """Raises BadArtifactError with the reason, or ObjectsUnavailableError when the store cannot be asked."""
    _check_names(objects, prefix, said)
    return tuple(
        _verify_file(objects, prefix + file.name, file, expected) for file in sorted(said, key=lambda file: file.name)
    )


def clean_json(value: Any, name: str) -> Any:
    """What a worker said, as it may be stored and shown: strict JSON; numbers that are not finite become null."""
    try:
        text = json.dumps(_without_nan(value), allow_nan=False)
        if len(text) > MAX_LINEAGE_BYTES:
            raise BadArtifactError(f"the worker's {name} is too large")
        return parse_json(text)
    except (TypeError, ValueError, RecursionError, StrictJsonError):
        raise BadArtifactError(f"the worker's {name} is not plain JSON") from None


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_names(objects: Objects, prefix: str, said: Sequence[StoredFile]) -> None:
    """Only names that we publish, each once, with the sizes that are there, and nothing beside them."""
    sizes = {file.name: file.size_bytes for file in said}
    if len(sizes) != len(said):
        raise BadArtifactError("the worker names a file twice")
    for name, size_bytes in sizes.items():
        if name not in MAX_FILE_BYTES:
            raise BadArtifactError(f"{show_name(name)} is no file of an adapter")
        if size_bytes > MAX_FILE_BYTES[name]:
            raise BadArtifactError(f"{name} has {size_bytes} bytes; at most {MAX_FILE_BYTES[name]} are published")
    for name in (WEIGHTS, CONFIG):
        if name not in sizes:
            raise BadArtifactError(f"{name} is missing")
    stored = {key.removeprefix(prefix): size for key, size in objects.list(prefix)}
    stored.pop(MANIFEST_NAME, None)
    for name in sorted(stored.keys() | sizes.keys()):
        if name not in stored:
            raise BadArtifactError(f"{name} was not stored")
        if name not in sizes:
            raise BadArtifactError(f"{show_name(name)} was stored and not reported")
        if stored[name] != sizes[name]:
            raise BadArtifactError(f"{name} has {stored[name]} bytes, and {sizes[name]} were reported")


def _verify_file(objects: Objects, key: str, file: StoredFile, expected: Expected) -> VerifiedFile:
    """One pass over the bytes. The checksum is judged first: damaged bytes say nothing about training."""
    try:
        stream = objects.stream(key)
    except NotFoundError:
        raise BadArtifactError(f"{file.name} was not stored") from None
    digest, kept, refusal = hashlib.sha256(), bytearray(), None
    scan = None
    if file.name == WEIGHTS:
        scan = SafetensorsScan(file.size_bytes, lambda header: check_tensors(header, expected.plan, expected.facts))
    try:
        for chunk in stream:
            digest.update(chunk)
            if file.name in PARSED_FILES:
                kept += chunk
            if scan is not None and refusal is None:
                refusal = _feed(scan, chunk)
    finally:
        stream.close()
    if digest.hexdigest() != file.sha256:
        raise BadArtifactError(f"the SHA-256 of {file.name} is not the one that the worker reported")
    if scan is not None:
        refusal = refusal or _feed(scan, None)
    if refusal is not None:
        raise refusal
    if file.name in PARSED_FILES:
        _check_parsed(file.name, bytes(kept), expected)
    return VerifiedFile(file=file, etag=stream.etag)


def _feed(scan: SafetensorsScan, chunk: bytes | None) -> BadArtifactError | None:
    """Pass a chunk on, or the end; what is wrong is returned, because the checksum still has to be taken."""
    try:
        if chunk is None:
            scan.finish()
        else:
            scan.feed(chunk)
    except MalformedSafetensorsError as error:
        kind = NotFiniteError if error.code == "not_finite" else BadArtifactError
        return kind(f"{WEIGHTS}: {error.message}")
    except BadArtifactError as error:
        return error
    return None


def _check_parsed(name: str, raw: bytes, expected: Expected) -> None:
    try:
        config = parse_config(raw, name)
    except InvalidRequestError as error:
        raise BadArtifactError(error.message) from None
    if name == CONFIG:
        check_config(config, expected.plan, base_models=expected.base_models)
