"""Stylesheet, scripts and vendored libraries, read once and served under an address that changes with their bytes.

So a browser may keep them for ever, and modules that import one another by relative names stay of one release.
"""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "static"
PREFIX = "/static/"
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".json": "application/json",
}
BUILD_CHARACTERS = 12
GZIP_LEVEL = 9


@dataclass(frozen=True, kw_only=True)
class Asset:
    media_type: str
    body: bytes
    compressed: bytes


@dataclass(frozen=True, kw_only=True)
class Assets:
    """`build` is the beginning of a hash over all names and bytes."""

    build: str
    by_name: Mapping[str, Asset]

    def url(self, name: str) -> str:
        """The address of an asset. Raises KeyError for one that is not there, so a page cannot name it."""
        if name not in self.by_name:
            raise KeyError(name)
        return f"{PREFIX}{self.build}/{name}"

    def find(self, build: str, name: str) -> Asset | None:
        return self.by_name.get(name) if build == self.build else None


def load_assets(folder: Path = FOLDER) -> Assets:
    """Every file below the folder whose ending has a media type."""
    digest = hashlib.sha256()
    found: dict[str, Asset] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix not in MEDIA_TYPES:
            continue
        name, body = path.relative_to(folder).as_posix(), path.read_bytes()
        digest.update(name.encode() + b"\0" + hashlib.sha256(body).digest())
        found[name] = Asset(
            media_type=MEDIA_TYPES[path.suffix], body=body, compressed=gzip.compress(body, GZIP_LEVEL, mtime=0)
        )
    return Assets(build=digest.hexdigest()[:BUILD_CHARACTERS], by_name=found)
