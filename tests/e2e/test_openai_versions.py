"""The contract's program, with the newest openai client and with the last of each older line."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.e2e import openai_contract
from tests.e2e.jobs import MODEL, write_rows
from tests.support.stack import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
OLDER = ("1.109.1", "2.54.0")


@pytest.fixture(scope="module")
def prepared(stack: RunningStack, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The program's arguments."""
    with stack.connect() as client:
        client.base_models.create(name=MODEL, location=str(tiny_model))
    rows = write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", rows=40)
    return [stack.url, stack.api_key, MODEL, str(rows)]


def _run(python: Path, arguments: list[str]) -> str:
    done = subprocess.run(
        [str(python), openai_contract.__file__, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_newest_client(prepared: list[str]) -> None:
    assert "every call answered" in _run(Path(sys.executable), prepared)


@pytest.mark.slow
@pytest.mark.parametrize("version", OLDER)
def test_an_older_client(prepared: list[str], version: str) -> None:
    assert f"openai {version}: every call answered" in _run(_environment_with(version), prepared)


def _environment_with(version: str) -> Path:
    """An environment with that client, made once per machine; returns its Python."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tunepool" / f"openai-{version}"
    python = cache / "bin" / "python"
    if not (cache / "complete").exists():
        venv.create(cache, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", f"openai=={version}"], check=True)
        (cache / "complete").touch()
    return python
