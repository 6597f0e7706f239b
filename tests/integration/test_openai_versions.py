"""The older majors of the openai client, each in an environment of its own, through one script of every call."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import ApiServer
from tests.support.trainers import working

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "openai_script.py"


def _run_script(server: ApiServer, python: str, tiny_model: Path, folder: Path) -> str:
    server.services.models.add(server.admin, "org/tiny", str(tiny_model))
    with working(server):
        done = subprocess.run(
            [python, str(SCRIPT), server.url, server.admin_key],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder)},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_newest_client_passes_the_script(api_server: ApiServer, tiny_model: Path, tmp_path: Path) -> None:
    assert _run_script(api_server, sys.executable, tiny_model, tmp_path).startswith("3.")


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.109.1", "2.54.0"])
def test_an_older_client_passes_the_script(
    api_server: ApiServer, tiny_model: Path, tmp_path: Path, version: str
) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, capture_output=True)
    python = str(environment / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"openai=={version}"]
    subprocess.run(install, check=True, capture_output=True)
    assert _run_script(api_server, python, tiny_model, tmp_path) == version
