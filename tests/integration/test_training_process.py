"""The contract of the child process, with real processes: reports on a pipe, control on standard input, and death.

Each wait here ends with an event: a line, the end of a pipe, or the end of a process.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from orchestrator.domain.protocol import (
    OUTCOME_KINDS,
    AttemptSpec,
    CheckpointSource,
    ModelSource,
    RemoteFile,
    ValidationResult,
    ValidationSpec,
)
from orchestrator.objects.client import Objects
from tests.support.models import ROOT
from tests.support.training import PREFIX, describe, make_attempt, make_plan, make_rows, write_rows

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the contract uses Linux's parent-death signal")


class Child:
    """A worker process as a supervisor starts it: leader of its own process group, both pipes in our hands."""

    def __init__(self, command: str, spec_path: Path) -> None:
        read, write = os.pipe()
        self.reports: IO[str] = os.fdopen(read)
        self.log_path = spec_path.with_suffix(".log")
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers", command, str(spec_path)],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "TUNEPOOL_REPORT_FD": str(write), "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(write,),
                process_group=0,
            )
        os.close(write)

    def next_report(self) -> dict[str, Any]:
        """The next line's report. Raises with the child's log when the pipe ends instead."""
        line = self.reports.readline()
        if not line:
            raise AssertionError(f"the child ended:\n{self.log_path.read_text()}")
        report: dict[str, Any] = json.loads(line)["report"]
        return report

    def read_until(self, kinds: frozenset[str]) -> list[dict[str, Any]]:
        reports = [self.next_report()]
        while reports[-1]["kind"] not in kinds:
            reports.append(self.next_report())
        return reports

    def tell(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.reports.close()
        assert self.process.stdin is not None
        self.process.stdin.close()


@pytest.fixture
def children() -> Iterator[list[Child]]:
    started: list[Child] = []
    yield started
    for child in started:
        child.close()


def start(children: list[Child], command: str, spec: AttemptSpec | ValidationSpec, folder: Path) -> Child:
    path = folder / f"{command}.json"
    path.write_text(spec.model_dump_json())
    children.append(Child(command, path))
    return children[-1]


def make_remote_attempt(folder: Path, model: Path, objects: Objects, **changes: Any) -> AttemptSpec:
    """As `make_attempt`, with the training file in the object store and a real grant to upload."""
    spec = make_attempt(folder, model, **changes)
    objects.put("inputs/train", (folder / "train.jsonl").read_bytes())
    training = spec.training_file.model_copy(update={"url": objects.presign_get("inputs/train", 600)})
    return spec.model_copy(update={"training_file": training, "upload": objects.presign_post(PREFIX, 600)})


def test_a_paused_training_goes_on_in_a_second_process(
    tmp_path: Path, tiny_model: Path, objects: Objects, children: list[Child]
) -> None:
    plan = make_plan(epochs=3, lora_dropout=0.1)
    spec = make_remote_attempt(tmp_path / "first", tiny_model, objects, plan=plan)
    first = start(children, "train", spec, tmp_path)
    assert first.next_report() == {"kind": "phase", "phase": "starting"}
    reports = first.read_until(frozenset({"metric"}))
    first.tell({"stop": {"reason": "paused", "save": True}})
    reports += first.read_until(OUTCOME_KINDS)
    stopped, stored = reports[-1], reports[-2]
    assert (stopped["kind"], stopped["reason"], stored["kind"]) == ("stopped", "paused", "checkpoint")
    assert first.process.wait(30) == 0
    manifest = json.loads(objects.get(stored["key_prefix"] + "manifest.json"))
    assert manifest["step"] == stored["step"] == stopped["step"]

    files = tuple(
        RemoteFile(**file, url=objects.presign_get(stored["key_prefix"] + file["name"], 600))
        for file in manifest["files"]
    )
    source = CheckpointSource(step=stored["step"], files=files)
    spec = make_remote_attempt(tmp_path / "second", tiny_model, objects, plan=plan, resume_from=source)
    second = start(children, "train", spec, tmp_path)
    outcome = second.read_until(OUTCOME_KINDS)[-1]
    assert outcome["kind"] == "succeeded"
    assert outcome["step"] == 12
    assert second.process.wait(30) == 0
    for file in outcome["files"]:
        assert len(objects.get(outcome["key_prefix"] + file["name"])) == file["size_bytes"]
    log = first.log_path.read_text()
    assert "going on from the checkpoint" in log
    assert "Signature" not in log


def test_a_failure_is_reported_as_the_outcome(
    tmp_path: Path, tiny_model: Path, objects: Objects, children: list[Child]
) -> None:
    spec = make_remote_attempt(tmp_path, tiny_model, objects, plan=make_plan(optimizer="adamw_8bit"))
    child = start(children, "train", spec, tmp_path)
    outcome = child.read_until(OUTCOME_KINDS)[-1]
    assert (outcome["kind"], outcome["failure"]) == ("failed", "user_error")
    assert "adamw_8bit" in outcome["message"]
    assert "Traceback" in outcome["detail"]
    assert child.process.wait(30) == 1


def test_the_end_of_standard_input_ends_the_process_at_once(
    tmp_path: Path, tiny_model: Path, children: list[Child]
) -> None:
    child = start(children, "train", make_attempt(tmp_path, tiny_model), tmp_path)
    child.next_report()
    assert child.process.stdin is not None
    child.process.stdin.close()
    assert child.process.wait(30) == -signal.SIGKILL


PARENT = """
import subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-m", "workers", "train", sys.argv[1]],
    stdin=int(sys.argv[2]), pass_fds=(int(sys.argv[3]),), process_group=0,
)
child.wait()
"""


def test_the_death_of_the_parent_ends_the_process(tmp_path: Path, tiny_model: Path) -> None:
    """We hold the child's standard input open, so only the parent-death signal can end it; its end of the report pipe
    closes when it dies."""
    spec_path = tmp_path / "spec.json"
    spec_path.write_text(make_attempt(tmp_path, tiny_model).model_dump_json())
    control_read, control_write = os.pipe()
    report_read, report_write = os.pipe()
    environment = {"PATH": os.environ["PATH"], "TUNEPOOL_REPORT_FD": str(report_write)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(spec_path), str(control_read), str(report_write)],
        cwd=ROOT,
        env=environment,
        pass_fds=(control_read, report_write),
        stderr=subprocess.DEVNULL,
    )
    os.close(report_write)
    with os.fdopen(report_read) as reports:
        assert json.loads(reports.readline())["report"]["phase"] == "starting"
        parent.kill()
        parent.wait()
        assert "outcome" not in reports.read()  # returns at the end of the pipe: nobody holds it any more
    os.close(control_read)
    os.close(control_write)


def test_validation_answers_with_one_line(
    tmp_path: Path, tiny_model: Path, objects: Objects, children: list[Child]
) -> None:
    path = write_rows(tmp_path / "train.jsonl", make_rows(3))
    objects.put("inputs/train", path.read_bytes())
    spec = ValidationSpec(
        job_id="ftjob-1",
        model=ModelSource(name="tiny", kind="path", revision="r", path=str(tiny_model)),
        training_file=describe(path, url=objects.presign_get("inputs/train", 600)),
        validation_file=None,
        max_seq_tokens=None,
        context_tokens=256,
        cache_dir=str(tmp_path / "cache"),
    )
    child = start(children, "validate", spec, tmp_path)
    result = ValidationResult.model_validate_json(child.reports.read())
    assert child.process.wait(30) == 0, child.log_path.read_text()
    assert result.problems == ()
    assert result.training is not None
    assert result.training.rows == 3
    assert child.log_path.read_text() == ""
