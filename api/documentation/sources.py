"""Where the pages lie, in a checkout or in an installed package, and at which address each is served.

Pages link to one another by relative names, as they lie in the repository; `Sources.resolve` turns such a name into the
address of the same page here, so that one text is good in both places.
"""

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ADDRESS = "/docs"
INDEX = "docs/README.md"
OPENAPI = "api/openapi.json"
SHIPPED = Path(__file__).parent / "shipped"
"""Where the build puts the folders; see pyproject.toml."""
CHECKOUT = Path(__file__).resolve().parents[2]
FOLDERS: Mapping[str, str] = {
    "docs": ADDRESS,
    "examples": f"{ADDRESS}/examples",
    "infra/decisions": f"{ADDRESS}/decisions",
}
"""Folders of the repository, and under which address each is served."""
LANGUAGES = {".py": "python", ".yaml": "yaml", ".jsonl": "json"}
"""Files beside the pages that are served too, as one block of code."""


@dataclass(frozen=True)
class Sources:
    """`paths` names the file of each address; both are complete, so nothing else can be asked for."""

    root: Path
    paths: Mapping[str, str]

    def resolve(self, link: str, page: str) -> str | None:
        """The address that a relative link of the page at path `page` leads to; None when it is not served."""
        name, mark, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), name))
        address = self.addresses.get(target)
        return None if address is None else address + mark + anchor

    @property
    def addresses(self) -> dict[str, str]:
        return {path: address for address, path in self.paths.items()} | {OPENAPI: "/openapi.json"}

    def read(self, address: str) -> tuple[str, str] | None:
        """The path and the Markdown that is served there. A file that is no page is a block of code."""
        path = self.paths.get(address)
        if path is None:
            return None
        text = (self.root / path).read_text(encoding="utf-8")
        language = LANGUAGES.get(Path(path).suffix)
        return path, text if language is None else f"# {Path(path).name}\n\n`````{language}\n{text.rstrip()}\n`````\n"


def find_sources() -> Sources:
    root = SHIPPED if SHIPPED.is_dir() else CHECKOUT
    paths: dict[str, str] = {}
    for folder, address in FOLDERS.items():
        for file in sorted((root / folder).rglob("*")):
            if file.suffix == ".md" or file.suffix in LANGUAGES:
                path = file.relative_to(root).as_posix()
                paths[_address(path, folder, address)] = path
    return Sources(root=root, paths=paths)


def _address(path: str, folder: str, address: str) -> str:
    name = path.removeprefix(f"{folder}/").removesuffix(".md")
    return address if name == "README" else f"{address}/{name}"
