"""From Markdown to the parts of a page: HTML without scripts or styles, headings with anchors, and sections of text.

Anchors are made of headings as GitHub makes them, so the same links lead to the same place here and there.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup

Resolve = Callable[[str], str | None]
"""A relative link's address; None for what is not served."""
DRAWINGS = frozenset({"", "text"})
"""Languages of blocks that are looked at: what a terminal shows, and drawings. The others are for copying."""
LONG_CELL_CHARACTERS = 320
"""A table with such a cell gets wide columns, rather than a tall narrow one."""
COPY = '<button type="button" class="tiny copy" data-copy hidden>Copy</button>'


@dataclass(frozen=True)
class Heading:
    level: int
    text: str
    anchor: str


@dataclass(frozen=True)
class Section:
    """What stands below a heading, up to the next one of any level; plain text."""

    heading: Heading
    text: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """`links` are the addresses of other pages that it leads to, in order."""

    html: Markup
    sections: Sequence[Section]
    links: Sequence[str]

    @property
    def headings(self) -> list[Heading]:
        return [section.heading for section in self.sections if section.heading.text]

    @property
    def title(self) -> str:
        return next((heading.text for heading in self.headings if heading.level == 1), "")


def render_markdown(text: str, resolve: Resolve) -> Document:
    parser = MarkdownIt("commonmark", renderer_cls=_Renderer).enable("table")
    tokens = parser.parse(text)
    links = [address for token in tokens for address in _lead_links(token.children or (), resolve)]
    sections = _read_sections(tokens)
    html = parser.renderer.render(tokens, parser.options, {})
    return Document(html=Markup(html), sections=sections, links=links)  # noqa: S704 - what the texts hold is escaped


def _lead_links(tokens: Iterable[Token], resolve: Resolve) -> Iterable[str]:
    """Turn relative links into addresses, in place. One that leads to nothing that is served becomes its text."""
    opened: list[Token] = []
    for token in tokens:
        if token.type == "link_open":
            opened.append(token)
            target = str(token.attrGet("href") or "")
            if "://" in target:
                token.attrSet("rel", "noopener noreferrer")
            elif not target.startswith("#"):
                address = resolve(target)
                if address is None:
                    token.hidden = True
                else:
                    token.attrSet("href", address)
                    yield address.partition("#")[0]
        elif token.type == "link_close":
            token.hidden = opened.pop().hidden


def _read_sections(tokens: Sequence[Token]) -> list[Section]:
    """Give each heading its anchor, in place, and gather what is said below it."""
    taken: dict[str, int] = {}
    sections: list[Section] = []
    heading, said = Heading(0, "", ""), list[str]()
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            sections.append(Section(heading, " ".join(said)))
            text = _plain_text(tokens[number + 1])
            heading, said = Heading(int(token.tag[1:]), text, _make_anchor(text, taken)), []
            token.attrSet("id", heading.anchor)
            tokens[number + 2].meta["heading"] = heading
        elif token.type == "inline" and tokens[number - 1].type != "heading_open":
            said.append(_plain_text(token))
        elif token.type == "fence":
            said.append(token.content)
    sections.append(Section(heading, " ".join(said)))
    return [section for section in sections if section.heading.text or section.text]


def _plain_text(inline: Token) -> str:
    parts = (" " if part.type in {"softbreak", "hardbreak"} else part.content for part in inline.children or ())
    return "".join(parts)


def _make_anchor(text: str, taken: dict[str, int]) -> str:
    """As GitHub's: small letters, blanks as dashes, other punctuation left out, a number behind what is there twice."""
    anchor = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
    count = taken[anchor] = taken.get(anchor, -1) + 1
    return f"{anchor}-{count}" if count else anchor


class _Renderer(RendererHTML):
    """HTML as CommonMark has it, but for what a page of ours shows in its own way. A method renders the token that it
    is named after."""

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        """The words behind the language are for the tests that run the blocks, so they are not shown."""
        token = tokens[idx]
        language = (token.info.split() or [""])[0]
        look, label, button = "block", f"Code, {language}", COPY
        if language in DRAWINGS:
            look, label, button = "block drawing", "Drawing or output", ""
        code = f"<code>{escapeHtml(token.content)}</code>"
        block = f'<pre class="code" tabindex="0" role="region" aria-label="{escapeHtml(label)}">{code}</pre>'
        return f'<div class="{look}">{block}{button}</div>\n'

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        """Tables scroll by themselves where they are wider than the page, by keyboard too."""
        table = list(takewhile(lambda token: token.type != "table_close", tokens[idx:]))
        head = takewhile(lambda token: token.type != "thead_close", table)
        names = (_plain_text(token) for token in head if token.type == "inline")
        label = escapeHtml("Table: " + ", ".join(filter(None, names)))
        look = ' class="long"' if any(len(token.content) > LONG_CELL_CHARACTERS for token in table) else ""
        return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table{look}>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return "</table></div>\n"

    def heading_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        heading: Heading = tokens[idx].meta["heading"]
        if heading.level == 1:
            return "</h1>\n"
        label = escapeHtml(f"Link to: {heading.text}")
        link = f'<a class="anchor" href="#{escapeHtml(heading.anchor)}" aria-label="{label}">#</a>'
        return f" {link}</h{heading.level}>\n"

    def html_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        """Pages have no HTML of their own but comments, which are for whoever edits them."""
        content = tokens[idx].content
        return "" if content.lstrip().startswith("<!--") else f"<p>{escapeHtml(content)}</p>\n"

    def html_inline(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return escapeHtml(tokens[idx].content)
