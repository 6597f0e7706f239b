"""Temporary folders: a killed process leaves nothing for ever, and nobody's folder is taken while it is in use."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.runtime import scratch
from orchestrator.runtime.scratch import YOUNGEST_SECONDS, Scratch

PROGRAM = """
import signal, sys, tempfile
tempfile.tempdir = sys.argv[1]
from orchestrator.runtime.scratch import Scratch
made = Scratch("tunepool-x-")
(made.path / "file").write_text("x")
print(made.path, flush=True)
signal.pause()
"""


@pytest.fixture(autouse=True)
def tempdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def other(tempdir: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process with a folder of its own."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tempdir)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process, Path(process.stdout.readline().strip())
    process.kill()
    process.wait()
    process.stdout.close()


def grow_old(monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.time() + 2 * YOUNGEST_SECONDS
    monkeypatch.setattr(scratch.time, "time", lambda: later)


def test_the_next_process_removes_what_a_killed_one_left(
    other: tuple[subprocess.Popen[str], Path], tempdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, left = other
    grow_old(monkeypatch)
    ours = Scratch("tunepool-x-")
    assert left.is_dir(), "it is in use"
    process.send_signal(signal.SIGKILL)
    process.wait()
    unrelated = tempdir / "tunepool-y-1"
    unrelated.mkdir()
    again = Scratch("tunepool-x-")
    assert not left.exists()
    assert ours.path.is_dir(), "ours, too, is in use"
    assert unrelated.is_dir()
    for each in (ours, again):
        each.remove()
        each.remove()
        assert not each.path.exists()


def test_what_is_young_or_no_folder_of_ours_is_let_be(tempdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    young = tempdir / "tunepool-x-young"
    young.mkdir()
    Scratch("tunepool-x-").remove()
    assert young.is_dir()
    grow_old(monkeypatch)
    target = tempdir / "target"
    target.mkdir()
    os.symlink(target, tempdir / "tunepool-x-link")
    (tempdir / "tunepool-x-file").write_text("x")
    Scratch("tunepool-x-").remove()
    assert not young.exists()
    assert target.is_dir()
    assert (tempdir / "tunepool-x-file").exists()
