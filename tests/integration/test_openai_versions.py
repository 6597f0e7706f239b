"""The older majors of the openai client, each in an environment of its own, through one script of every call."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.servers import ApiServer
from tests.support.trainers import Trainer

SCRIPT = Path(__file__).resolve().parents[1] / "support" / "openai_script.py"
TURN_SECONDS = 0.05


class Workers(threading.Thread):
    """Steps the loops, and lets attempts of jobs with metadata train to their end, with one checkpoint on the way."""

    def __init__(self, server: ApiServer) -> None:
        super().__init__(name="workers")
        self._server = server
        self._ended = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._ended.wait(TURN_SECONDS):
                self._turn()
        except BaseException as error:
            self.error = error

    def _turn(self) -> None:
        self._server.step()
        for worker in list(self._server.launcher.workers.values()):
            job_id = worker.launch.spec.job_id
            if worker.alive and self._server.services.jobs.get(self._server.admin, job_id).spec.metadata:
                trainer = Trainer(self._server, job_id)
                trainer.train(1, 2)
                trainer.save(2)
                trainer.succeed()

    def stop(self) -> None:
        self._ended.set()
        self.join()
        if self.error is not None:
            raise self.error


@contextmanager
def _working(server: ApiServer) -> Iterator[None]:
    workers = Workers(server)
    workers.start()
    try:
        yield
    finally:
        workers.stop()


def _run_script(server: ApiServer, python: str, tiny_model: Path, folder: Path) -> str:
    server.services.models.add(server.admin, "org/tiny", str(tiny_model))
    with _working(server):
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
