"""The documentation is whole: blocks are run or say why not, links lead somewhere, every code has its section."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from api.cli.jobfile import read_jobfile
from api.reference.pages import render_pages
from orchestrator.domain.datasets import HINTS
from orchestrator.domain.failures import FAILURE_RULES, FailureKind
from orchestrator.domain.scheduling.actions import WaitCode
from tests.support.pages import REASONS, ROOT, Block, all_pages, read_blocks

DOCS = ROOT / "docs"
PAGES = [*all_pages(), *sorted((DOCS / "reference").glob("*.md"))]
BLOCKS = [block for page in all_pages() for block in read_blocks(page)]
SHOWN = {"text", "json", ""}
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_SECTION = re.compile(r"^#{2,4} `([a-z0-9_]+)`", re.MULTILINE)
INTERNAL = {"measurement_failed", "untraceable", "lease_lost", "attempt_gone", "start_failed"}
"""Never in an answer: api/errors.py shows them as internal_error, or the scheduler turns them into failures."""
COMPOSED = {
    "invalid_validation_file",
    "validation_timeout",
    "validation_out_of_memory",
    "preview_timeout",
    "preview_out_of_memory",
}
"""Put together from the name of a field, or of what was checked."""


def test_every_block_is_run_or_says_why_not() -> None:
    assert len(BLOCKS) > 40
    untold = [b.place for b in BLOCKS if b.language not in {*SHOWN, "yaml"} and not b.is_run and not _is_told(b)]
    assert untold == []
    assert sum(block.is_run for block in BLOCKS) > sum("not-run" in block.options for block in BLOCKS)


def test_reasons_for_not_running_are_known() -> None:
    given = {block.options["not-run"] for block in BLOCKS if "not-run" in block.options}
    assert given <= set(REASONS)


def _is_told(block: Block) -> bool:
    return "not-run" in block.options or "file" in block.options


@pytest.mark.parametrize(
    "block",
    [b for b in BLOCKS if b.language == "yaml" and "not-run" not in b.options],
    ids=lambda block: block.place,
)
def test_job_files_of_the_pages_are_valid(block: Block, tmp_path: Path) -> None:
    """A part of a job file is completed with what every job needs."""
    fields = {"model": "a-model", "training_file": "train.jsonl", **yaml.safe_load(block.text)}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(fields))
    read_jobfile(path)


def test_json_of_the_pages_is_json() -> None:
    for block in BLOCKS:
        if block.language == "json":
            json.loads(block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = [target for target in _links(page) if not _leads_somewhere(page, target)]
    assert broken == []


def _links(page: Path) -> Iterator[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    yield from (target for target in LINK.findall(text) if "://" not in target)


def _leads_somewhere(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    return path.exists() and (not anchor or anchor in _anchors(path))


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_reference_is_current() -> None:
    stored = {name: (DOCS / "reference" / name).read_text() for name in render_pages()}
    assert stored == render_pages(), "run `python -m api docs`"


def test_the_reference_has_the_fields_of_every_method() -> None:
    """Of those that are written as `**fields`."""
    text = (DOCS / "reference/python.md").read_text()
    named = set(re.findall(r"\(.*\*\*\w+: \*<class '(\w+)'>", text))
    assert len(named) == 5
    assert named <= set(re.findall(r"^### (\w+)$", text, re.MULTILINE))


def test_every_code_of_a_data_set_is_explained() -> None:
    readers = [ROOT / "workers" / "validation.py", *(ROOT / "workers" / "builders").glob("*.py")]
    assert _sections("data-formats.md") == {*HINTS, *(code for path in readers for code in _codes_in(path))}


def test_every_error_and_failure_is_explained() -> None:
    raised = {
        code
        for package in ("api", "orchestrator")
        for path in (ROOT / package).rglob("*.py")
        for code in _codes_in(path)
        if not {"cli", "client", "reference"} & set(path.parts)
    }
    wanted = {kind.value for kind in FailureKind} | (raised | COMPOSED) - set(HINTS) - INTERNAL
    assert len(wanted) > 60
    assert wanted - _sections("troubleshooting.md") == set()
    assert _sections("troubleshooting.md") - wanted - set(HINTS) == set()


def test_failures_are_explained_with_their_own_hints() -> None:
    text = " ".join((DOCS / "troubleshooting.md").read_text().split())
    assert [kind for kind, rule in FAILURE_RULES.items() if rule.hint not in text] == []


def test_every_reason_to_wait_is_explained() -> None:
    assert _sections("sharing.md") == {code.value for code in WaitCode}


def _sections(page: str) -> set[str]:
    return set(CODE_SECTION.findall((DOCS / page).read_text()))


def _codes_in(path: Path) -> set[str]:
    """Error codes that a module can raise: `code=` of a call, `code` of a class, and its tables of codes."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.keyword(arg="code", value=value):
                found |= _texts(value)
            case ast.Assign(targets=[ast.Name(id="code" | "_HTTP_CODES" | "_CODES")], value=value):
                found |= _texts(value)
            case ast.AnnAssign(target=ast.Name(id="code"), value=ast.expr() as value):
                found |= _texts(value)
            case ast.Call(func=ast.Name(id="BadDataError"), args=[_, value, *_]):
                found |= _texts(value)
            case ast.FunctionDef(name="_code_of"):
                found |= {
                    text for part in ast.walk(node) if isinstance(part, ast.Return) for text in _texts(part.value)
                }
    return found


def _texts(value: ast.expr | None) -> set[str]:
    """The texts that an expression can be: itself, either side of a condition, or the values of a table."""
    match value:
        case ast.Constant(value=str() as text):
            return {text} if re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", text) else set()
        case ast.IfExp(body=body, orelse=other):
            return _texts(body) | _texts(other)
        case ast.Dict(values=values):
            return {text for part in values for text in _texts(part)}
    return set()
