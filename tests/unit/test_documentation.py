"""The pages as they are served: what becomes of Markdown, where links lead, what a search finds, what is shipped."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from api.documentation.library import Library
from api.documentation.markdown import render_markdown
from api.documentation.sources import ADDRESS, CHECKOUT, FOLDERS, SHIPPED, Sources, find_sources

PAGES = sorted(path for path in find_sources().paths if not Path(path).suffix)


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


def test_the_words_behind_a_language_are_not_shown() -> None:
    html = render_markdown('```sh not-run="GPU" file=a.sh\nnvidia-smi <x>\n```\n', lambda _: None).html
    assert "not-run" not in html
    assert "a.sh" not in html
    assert "<code>nvidia-smi &lt;x&gt;\n</code>" in html
    assert "data-copy" in html


def test_a_drawing_is_not_for_copying() -> None:
    assert "data-copy" not in render_markdown("```text\n──▶\n```\n", lambda _: None).html


def test_comments_are_left_out_and_other_html_is_text() -> None:
    html = render_markdown("<!-- by a program -->\n\n<script>1</script>\n\na <b>c</b>\n", lambda _: None).html
    assert "by a program" not in html
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;c&lt;/b&gt;" in html


def test_a_script_as_an_address_is_no_link() -> None:
    assert "href" not in render_markdown("[x](javascript:alert(1)) [y](data:text/html,1)", lambda _: None).html


def test_anchors_are_as_githubs_and_unique() -> None:
    document = render_markdown("# A\n\n## `bad_key` and more: yes!\n\n## A\n\n## A\n", lambda _: None)
    assert [heading.anchor for heading in document.headings] == ["a", "bad_key-and-more-yes", "a-1", "a-2"]
    assert document.html.count('id="a-1"') == 1
    assert document.title == "A"


def test_relative_links_become_addresses_and_what_is_not_served_is_text() -> None:
    sources = find_sources()
    html = render_markdown(
        "[one](../running.md#upgrades) [two](../../orchestrator/wiring.py) [three](#here) [four](https://a.example)",
        lambda link: sources.resolve(link, "docs/reference/api.md"),
    ).html
    assert '<a href="/docs/running#upgrades">one</a>' in html
    assert "two" in html
    assert "wiring" not in html
    assert '<a href="#here">three</a>' in html
    assert '<a href="https://a.example" rel="noopener noreferrer">four</a>' in html


def test_a_table_is_named_by_its_head_and_can_be_scrolled() -> None:
    html = render_markdown("| `a` | b<c |\n| --- | --- |\n| 1 | 2 |\n", lambda _: None).html
    assert '<div class="scroll" tabindex="0" role="region" aria-label="Table: a, b&lt;c"><table>' in html


def test_every_page_is_in_the_contents(library: Library) -> None:
    served = {entry.address for entry in library.contents}
    assert served == {page for page in PAGES if not page.startswith(f"{ADDRESS}/decisions")}


@pytest.mark.parametrize("address", PAGES)
def test_every_page_has_a_title_and_its_own_anchors(library: Library, address: str) -> None:
    document = library.find(address)
    assert document is not None
    assert document.title
    assert document.html.count("<h1") == 1
    anchors = [heading.anchor for heading in document.headings]
    assert len(anchors) == len(set(anchors))


def test_nothing_but_the_pages_can_be_asked_for(library: Library) -> None:
    for address in ("/docs/../pyproject.toml", "/docs/..", "/docs/quickstart.md", "/docs/", "/docs/examples/../x"):
        assert library.find(address) is None


def test_a_search_finds_the_section_named_first(library: Library) -> None:
    hits = library.search("cannot_fit")
    assert hits[0].address == "/docs/troubleshooting#cannot_fit"
    both = library.search("LEARNING rate")
    assert all({text.lower() for text, matches in hit.snippet if matches} <= {"learning", "rate"} for hit in both)
    assert any(hit.address == "/docs/choosing#learning-rate" for hit in both)
    assert library.search("zyxwvut") == []
    assert library.search("  ") == []
    assert library.search("( [ *")


def test_what_is_served_is_shipped() -> None:
    build = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    shipped = SHIPPED.relative_to(CHECKOUT).as_posix()
    assert build["force-include"] == {folder: f"{shipped}/{folder}" for folder in FOLDERS}


@pytest.mark.slow
def test_a_wheel_has_the_pages(tmp_path: Path) -> None:
    """Its own are served, not those of a checkout that may stand around it."""
    options = ("--quiet", "--no-deps", "--wheel-dir", str(tmp_path))
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(CHECKOUT)], check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path)
    found = find_sources()
    unpacked = Sources(root=tmp_path / SHIPPED.relative_to(CHECKOUT), paths=found.paths)
    assert all(unpacked.read(address) == found.read(address) for address in found.paths)
