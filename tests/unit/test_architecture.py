"""The shape of the project, held by a test: sizes, the one place where states are assigned, and the import contracts.

An exception is a line in EXCEPTIONS with its reason.
"""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("api", "orchestrator", "workers")
FILE_CEILING = 400
TEST_FILE_CEILING = 500
FUNCTION_CEILING = 60
LOOP_FUNCTION_CEILING = 120
PARAMETERS_CEILING = 7

EXCEPTIONS = {
    "orchestrator/runtime/ray.py:__init__": "built once, by the composition root, from as many settings",
    "api/cli/queue.py:change": "a command: its parameters are its options",
    "api/cli/simulate.py:simulate_pool": "a command: its parameters are its options",
    "orchestrator/store/attempts.py:record_contact": "one guarded write; the transaction counts as a parameter",
}


def _sources() -> list[Path]:
    files = [p for package in PACKAGES for p in (ROOT / package).rglob("*.py") if "versions" not in p.parts]
    assert len(files) > 60
    return files


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_files_stay_below_their_ceiling() -> None:
    files = [(p, FILE_CEILING) for p in _sources()] + [(p, TEST_FILE_CEILING) for p in (ROOT / "tests").rglob("*.py")]
    long = [
        f"{_relative(path)}: {lines} lines"
        for path, ceiling in files
        if (lines := len(path.read_text().splitlines())) > ceiling and _relative(path) not in EXCEPTIONS
    ]
    assert not long


def test_functions_stay_small() -> None:
    long, wide = [], []
    for path in _sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            name = f"{_relative(path)}:{node.name}"
            ceiling = LOOP_FUNCTION_CEILING if path.parent.name == "recipes" else FUNCTION_CEILING
            if (node.end_lineno or 0) - node.lineno + 1 > ceiling and name not in EXCEPTIONS:
                long.append(name)
            if _is_too_wide(node, path) and name not in EXCEPTIONS:
                wide.append(name)
    assert not long
    assert not wide


def _is_too_wide(node: ast.FunctionDef | ast.AsyncFunctionDef, path: Path) -> bool:
    """Handlers and commands declare their parameters to FastAPI and Typer, so only the rest is held."""
    if path.parent.name in {"routes", "cli"} and node.decorator_list:
        return False
    arguments = node.args
    positional = [a for a in (*arguments.posonlyargs, *arguments.args) if a.arg not in {"self", "cls"}]
    return len(positional) + len(arguments.kwonlyargs) > PARAMETERS_CEILING


def test_only_the_store_assigns_states() -> None:
    assigns = re.compile(r"\bstate\s*=\s*(JobState|AttemptState)\.")
    allowed = {"orchestrator/domain/outcomes.py", "orchestrator/domain/states.py"}
    found = [
        _relative(path)
        for path in _sources()
        if assigns.search(path.read_text())
        and _relative(path) not in allowed
        and not _relative(path).startswith("orchestrator/store/")
    ]
    assert not found


def test_importing_the_control_plane_brings_neither_torch_nor_ray() -> None:
    program = (
        "import sys, api.app, orchestrator.wiring\n"
        "heavy = sorted({'torch', 'ray', 'transformers', 'peft', 'trl'} & set(sys.modules))\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


VIOLATIONS = [
    ("orchestrator/scheduler/place.py", "import torch"),
    ("orchestrator/services/jobs.py", "import orchestrator.settings"),
    ("api/routes/jobs.py", "import orchestrator.store.tables"),
    ("orchestrator/runtime/launcher.py", "import workers.context"),
    ("workers/context.py", "import orchestrator.store.tables"),
    ("workers/context.py", "import orchestrator.objects.client"),
    ("orchestrator/surprise.py", "x = 1"),
    ("orchestrator/services/jobs.py", "import sqlalchemy"),
    ("orchestrator/domain/states.py", "import fastapi"),
    ("orchestrator/services/jobs.py", "import orchestrator.scheduler.place"),
    ("orchestrator/store/jobs.py", "import orchestrator.objects.client"),
    ("orchestrator/domain/errors.py", "import orchestrator.domain.plan"),
    ("api/app.py", "import workers.context"),
    ("api/app.py", "import orchestrator.runtime.ray"),
    ("orchestrator/scheduler/watch.py", "import ray"),
    ("orchestrator/services/files.py", "import boto3"),
]


@pytest.fixture(scope="module")
def copied_sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_import_contracts_are_kept(copied_sources: Path) -> None:
    done = _lint(copied_sources)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("file", "line"), VIOLATIONS)
def test_each_contract_catches_a_violation(copied_sources: Path, file: str, line: str) -> None:
    path = copied_sources / file
    before = path.read_text() if path.exists() else None
    path.write_text((before or "") + f"\n{line}\n")
    try:
        done = _lint(copied_sources)
        assert done.returncode != 0, f"{line!r} in {file} was not caught"
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_text(before)
