"""The pages as they are served: each rendered when it is first asked for, in the order of docs/README.md."""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from api.documentation.markdown import Document, Heading, render_markdown
from api.documentation.sources import ADDRESS, Sources, find_sources

MOST_HITS = 30
MOST_WORDS = 8
SNIPPET_CHARACTERS = 240
LEAD_CHARACTERS = 60
"""Of a snippet, before the first word that was found."""


@dataclass(frozen=True)
class Entry:
    """A line of the table of contents."""

    address: str
    title: str


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A section where all words are. `snippet` is its text in pieces, those that match told apart."""

    page: Entry
    heading: Heading
    snippet: Sequence[tuple[str, bool]]

    @property
    def address(self) -> str:
        return f"{self.page.address}#{self.heading.anchor}"


class Library:
    """Safe for several threads: at worst a page is rendered twice."""

    def __init__(self, sources: Sources | None = None) -> None:
        self.sources = sources or find_sources()
        self._lock = threading.Lock()
        self._documents: dict[str, Document] = {}

    def find(self, address: str) -> Document | None:
        """The page at an address, None where there is none."""
        with self._lock:
            document = self._documents.get(address)
        if document is not None:
            return document
        found = self.sources.read(address)
        if found is None:
            return None
        path, text = found
        document = render_markdown(text, lambda link: self.sources.resolve(link, path))
        with self._lock:
            self._documents[address] = document
        return document

    @cached_property
    def contents(self) -> tuple[Entry, ...]:
        """The pages that docs/README.md leads to, in its order, behind itself."""
        index = self.find(ADDRESS)
        if index is None:
            return ()
        pages = [address for address in dict.fromkeys((ADDRESS, *index.links)) if address in self.sources.paths]
        return tuple(Entry(address, self._title(address)) for address in pages)

    def _title(self, address: str) -> str:
        """Its first heading; the page is not rendered for that."""
        found = self.sources.read(address)
        heading = re.search(r"^# (.+)$", found[1], re.MULTILINE) if found else None
        return heading[1] if heading else address.rpartition("/")[2]

    def search(self, text: str) -> list[Hit]:
        """The sections of the contents' pages that hold all the words, those first that have them in their heading."""
        words = [word.lower() for word in text.split()[:MOST_WORDS]]
        if not words:
            return []
        found: list[tuple[int, int, Hit]] = []
        for page in self.contents:
            document = self.find(page.address)
            for section in document.sections if document else ():
                title, body = section.heading.text.lower(), section.text.lower()
                held = [word in title or word in body for word in words]
                if any(held) and all(has or word in page.title.lower() for has, word in zip(held, words, strict=True)):
                    named = sum(word in title for word in words)
                    hit = Hit(page=page, heading=section.heading, snippet=_cut_snippet(section.text, words))
                    found.append((-named, len(found), hit))
        return [hit for _, _, hit in sorted(found, key=lambda one: one[:2])[:MOST_HITS]]


def _cut_snippet(text: str, words: Sequence[str]) -> list[tuple[str, bool]]:
    """A piece of the text round the first match, split at all of them."""
    pattern = re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)), re.IGNORECASE)
    text = " ".join(text.split())
    first = pattern.search(text)
    start = max(0, first.start() - LEAD_CHARACTERS) if first else 0
    if start:
        start = text.find(" ", start) + 1
    piece = ("… " if start else "") + text[start : start + SNIPPET_CHARACTERS]
    piece += " …" if start + SNIPPET_CHARACTERS < len(text) else ""
    parts: list[tuple[str, bool]] = []
    at = 0
    for match in pattern.finditer(piece):
        parts += [(piece[at : match.start()], False), (match.group(), True)]
        at = match.end()
    return [*parts, (piece[at:], False)]
