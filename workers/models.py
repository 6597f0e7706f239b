"""Where on this node is the base model? Its folder, downloaded at most once per node, checked before anything reads it.

A folder is used only if it holds safetensors and a config that asks for no code of its own.
"""

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import is_offline_mode, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from orchestrator.domain.protocol import ModelSource, RemoteFile
from workers.failures import ModelError, WorkerError

TOKENIZER_PATTERNS = ("*.json", "*.jinja", "*.txt", "*.model")
WEIGHT_PATTERNS = ("*.safetensors",)
"""Nothing else is ever taken from the hub: no Python file, no pickled weights."""
REFUSED_KEYS = frozenset({"auto_map", "trust_remote_code", "custom_pipelines", "use_kernels", "kernel_config"})
"""Keys of config.json and tokenizer_config.json that make the loader run or fetch code (CVE-2026-4372 and kin)."""
COMPLETE_MARK = ".complete"

Fetch = Callable[[RemoteFile, Path], None]


def resolve_model(source: ModelSource, cache_dir: Path, *, fetch: Fetch, weights: bool = True) -> Path:
    """The folder of the base model, checked. Without `weights` only what a tokenizer needs is downloaded.

    Raises ModelError when the model cannot be used, WorkerError when the hub does not answer.
    """
    if source.kind == "path":
        if not source.path:
            raise ModelError(f"no folder is on record for {source.name}")
        folder = Path(source.path)
    elif source.kind == "s3":
        folder = _download_files(source, cache_dir, fetch=fetch, weights=weights)
    else:
        folder = _download_snapshot(source, weights=weights)
    check_model_folder(folder, source.name, weights=weights)
    return folder


def check_model_folder(folder: Path, name: str, *, weights: bool = True) -> None:
    """Raise ModelError unless the folder can be loaded without running anything of its own."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name} has no config.json on this node")
    config = _read_json(folder / "config.json", name)
    _refuse_code(config, name, "config.json")
    if config.get("quantization_config"):
        raise ModelError(f"{name} is quantized already; register its 16-bit version and ask for a quantization")
    if (folder / "tokenizer_config.json").is_file():
        _refuse_code(_read_json(folder / "tokenizer_config.json", name), name, "tokenizer_config.json")
    if weights and not any(folder.glob("*.safetensors")):
        raise ModelError(f"{name} holds no safetensors file")


def _refuse_code(config: dict[str, Any], name: str, file: str) -> None:
    """Also refuse an attention implementation with a slash: it would be fetched from the hub as a kernel."""
    for key, value in config.items():
        if key in REFUSED_KEYS:
            raise ModelError(f"{file} of {name} asks for code of its own ({key}), which is never run")
        if key.endswith("implementation") and "/" in str(value):
            raise ModelError(f"{file} of {name} asks for a kernel from the hub ({key}), which is never fetched")
        if isinstance(value, dict):
            _refuse_code(value, name, file)


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name} of {name} cannot be read") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path.name} of {name} is not a JSON object")
    return value


def _download_files(source: ModelSource, cache_dir: Path, *, fetch: Fetch, weights: bool) -> Path:
    """One folder per name and revision; its mark is written last, and only one process of the node writes at a time."""
    folder = cache_dir / _folder_name(source, weights=weights)
    mark = folder / COMPLETE_MARK
    if mark.exists():
        return folder
    with file_lock(folder.with_name(f"{folder.name}.lock")):
        if mark.exists():
            return folder
        for file in source.files:
            if weights or not file.name.endswith(".safetensors"):
                fetch(file, folder / _safe_relative(file.name))
        mark.touch()
    return folder


def _download_snapshot(source: ModelSource, *, weights: bool) -> Path:
    """The hub's own cache (HF_HOME) keeps each file once per node, under its own locks; HF_HUB_OFFLINE is honoured."""
    if not source.hub_id:
        raise ModelError(f"no hub id is on record for {source.name}")
    patterns = [*TOKENIZER_PATTERNS, *(WEIGHT_PATTERNS if weights else ())]
    try:
        folder = snapshot_download(
            source.hub_id,
            revision=source.revision or None,
            allow_patterns=patterns,
            token=source.hub_token or False,
        )
    except GatedRepoError as error:
        raise ModelError(f"the hub does not give {source.hub_id} to this token; accept its licence first") from error
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelError(f"the hub has no {source.hub_id} at revision {source.revision}") from error
    except LocalEntryNotFoundError as error:
        if is_offline_mode():
            raise ModelError(f"{source.hub_id} is not on this node, which may not ask the hub") from error
        raise WorkerError(f"the hub did not answer for {source.hub_id}") from error
    except (HfHubHTTPError, httpx2.HTTPError) as error:
        raise WorkerError(f"the hub did not give {source.hub_id}") from error
    return Path(folder)


def _folder_name(source: ModelSource, *, weights: bool) -> str:
    text = f"{source.name}-{source.revision}{'' if weights else '-tokenizer'}"
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".")


def _safe_relative(name: str) -> Path:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise ModelError(f"a file of the model has an impossible name: {name!r}")
    return path


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; waits for other processes. The kernel drops it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
