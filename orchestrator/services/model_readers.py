"""Three places where a base model can be, read in the same way: its files at the top level, and ranges of their bytes.

A folder is read only below an allowed root, wherever its links point; a bucket only if it is the pool's own.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.models import ModelFile
from orchestrator.objects.client import Objects

S3_SCHEME = "s3://"


class ModelReader(Protocol):
    def list_files(self) -> Sequence[ModelFile]:
        """Files at the top level, by name."""
        ...

    def read(self, path: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on, fewer at the file's end. `path` is one that was listed."""
        ...


@dataclass(frozen=True)
class FolderReader:
    """`folder` is a real path; `roots` are too."""

    folder: Path
    roots: tuple[Path, ...]

    def list_files(self) -> Sequence[ModelFile]:
        try:
            files = [entry for entry in sorted(self.folder.iterdir()) if entry.is_file()]
            return [ModelFile(path=entry.name, size_bytes=entry.stat().st_size) for entry in files]
        except OSError as error:
            raise _unreadable(self.folder, error) from error

    def read(self, path: str, start: int, length: int) -> bytes:
        """Follows links, as the hub's cache has them, but never out of the roots."""
        real = Path(os.path.realpath(self.folder / path))
        if not is_below(real, self.roots):
            raise InvalidRequestError(f"{path} is a link to a place outside the allowed folders", code="bad_model")
        try:
            with real.open("rb") as file:
                file.seek(start)
                return file.read(length)
        except OSError as error:
            raise _unreadable(self.folder / path, error) from error


@dataclass(frozen=True)
class BucketReader:
    """`prefix` ends in a slash."""

    objects: Objects
    prefix: str

    def list_files(self) -> Sequence[ModelFile]:
        found = ((key.removeprefix(self.prefix), size) for key, size in self.objects.list(self.prefix))
        return [ModelFile(path=path, size_bytes=size) for path, size in found if path and "/" not in path]

    def read(self, path: str, start: int, length: int) -> bytes:
        return self.objects.get(self.prefix + path, start=start, length=length)


def is_below(path: Path, roots: Sequence[Path]) -> bool:
    """Whether a real path is one of the roots or inside one."""
    return any(path == root or root in path.parents for root in roots)


def find_folder(name: str, roots: Sequence[Path]) -> Path | None:
    """The model folder that a name means: a path, or a path below a root. None unless it is below a root.

    Folders outside the roots are not told from ones that do not exist.
    """
    if "\0" in name:
        return None
    candidates = [Path(name)] if os.path.isabs(name) else [root / name for root in roots]
    for candidate in candidates:
        real = Path(os.path.realpath(candidate))
        if is_below(real, roots) and (real / "config.json").is_file():
            return real
    return None


def parse_s3_location(location: str, bucket: str) -> str:
    """The prefix, with a slash at its end. Raises InvalidRequestError for a bucket that is not the pool's."""
    named, _, path = location.removeprefix(S3_SCHEME).partition("/")
    prefix = path.strip("/")
    if named != bucket:
        raise InvalidRequestError(
            f"base models are read from the pool's own bucket only, {S3_SCHEME}{bucket}/…", param="location"
        )
    if not prefix or any(part in {"", ".", ".."} for part in prefix.split("/")):
        raise InvalidRequestError(f"{location!r} names no folder of the bucket", param="location")
    return prefix + "/"


def _unreadable(path: Path, error: OSError) -> InvalidRequestError:
    return InvalidRequestError(f"{path} cannot be read: {error.strerror}", code="bad_model")
