"""A supervisor and a real child process that obeys the contract, or does not."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.domain.errors import LeaseLostError
from orchestrator.domain.protocol import AttemptSpec, Entry, Peak, Progress, Pulled, Stopped, StopReason
from orchestrator.runtime.supervisor import Supervisor
from tests.support.attempt_specs import (
    MIB,
    POLICY,
    SIGNATURE,
    STUB_COMMAND,
    make_grant,
    make_spec,
    progress,
    texts_of,
    wait_for,
)

PAUSE = StopReason(reason="paused", save=True)
Start = Callable[..., "Supervised"]


class Supervised:
    """A started supervisor and what was pulled from it."""

    def __init__(self, spec: AttemptSpec, **options: Any) -> None:
        self.spec = spec
        self.supervisor = Supervisor(
            spec, **{"lease_generation": 1, "stop_grace_seconds": 2.0, "command": STUB_COMMAND, **options}
        )
        self.entries: list[Entry] = []

    def pull(self) -> Pulled:
        pulled = self.supervisor.pull(len(self.entries), lease_generation=1)
        self.entries += pulled.entries
        return pulled

    def pull_to_the_end(self) -> Pulled:
        assert self.supervisor.wait_ended(20)
        while (pulled := self.pull()).more:
            pass
        return pulled

    def wait_for_text(self, text: str) -> None:
        wait_for(lambda: self.pull() and text in texts_of(self.entries))

    @property
    def kinds(self) -> list[str]:
        return [entry.report.kind for entry in self.entries]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a supervised stub that runs these steps."""
    started: list[Supervised] = []

    def start(*steps: dict[str, Any], spec: dict[str, Any] | None = None, **options: Any) -> Supervised:
        started.append(Supervised(make_spec(tmp_path, *steps, **(spec or {})), **options))
        started[-1].supervisor.start()
        return started[-1]

    yield start
    for supervised in started:
        assert supervised.supervisor.close()


def test_everything_that_a_process_says_is_in_the_journal_when_it_has_ended(start: Start) -> None:
    run = start({"print": "to stdout"}, {"print_error": "to stderr"}, progress(1), {"raw": "no newline"}, {"exit": 0})
    pulled = run.pull_to_the_end()
    assert (pulled.alive, pulled.exit_code) == (False, 0)
    assert [entry.seq for entry in run.entries] == list(range(1, len(run.entries) + 1))
    assert sorted(texts_of(run.entries, "stdout")) == ["no newline", "to stdout"]
    assert texts_of(run.entries, "stderr") == ["to stderr"]
    assert [e.report for e in run.entries if isinstance(e.report, Progress)] == [
        Progress(step=1, total_steps=100, trained_tokens=1)
    ]


def test_while_the_process_runs_it_is_alive_and_has_no_exit_code(start: Start) -> None:
    run = start(progress(1), {"wait": "stop"})
    wait_for(lambda: run.pull() and "progress" in run.kinds)
    pulled = run.pull()
    assert (pulled.alive, pulled.exit_code) == (True, None)


def test_a_process_that_was_killed_ends_without_an_outcome(start: Start) -> None:
    run = start({"kill": True})
    pulled = run.pull_to_the_end()
    assert (pulled.alive, pulled.exit_code) == (False, -signal.SIGKILL)
    assert "stopped" not in run.kinds


def test_a_stopped_process_saves_within_its_grace(start: Start) -> None:
    run = start({"wait": "stop"})
    run.supervisor.stop(PAUSE, lease_generation=1, grace_seconds=15)
    pulled = run.pull_to_the_end()
    assert pulled.exit_code == 0
    assert [e.report for e in run.entries if e.report.kind == "stopped"] == [Stopped(reason="paused", step=7)]


def test_a_process_that_does_not_stop_is_killed_with_all_its_group(start: Start) -> None:
    run = start({"ignore": "stop"}, term_seconds=0.3)
    wait_for(lambda: run.pull() and run.kinds.count("phase") == 2)
    run.supervisor.stop(PAUSE, lease_generation=1, grace_seconds=0.1)
    pulled = run.pull_to_the_end()
    assert pulled.exit_code == -signal.SIGKILL
    assert any("did not stop in the time" in text for text in texts_of(run.entries, "tunepool"))


def test_silence_longer_than_the_lease_stops_the_process_by_itself(start: Start) -> None:
    run = start({"wait": "stop"}, spec={"lease_seconds": 1})
    assert run.supervisor.wait_ended(15), "nobody pulls"
    run.pull_to_the_end()
    assert [e.report for e in run.entries if e.report.kind == "stopped"] == [Stopped(reason="lease_expired", step=7)]


def test_a_caller_of_an_older_generation_is_refused(start: Start) -> None:
    run = start({"wait": "stop"})
    run.supervisor.pull(0, lease_generation=3)
    for order in (
        lambda: run.supervisor.pull(0, lease_generation=2),
        lambda: run.supervisor.stop(PAUSE, lease_generation=2, grace_seconds=0),
        lambda: run.supervisor.accept(2),
    ):
        with pytest.raises(LeaseLostError):
            order()
    assert run.supervisor.pull(0, lease_generation=3).alive, "the stale stop changed nothing"


def test_a_fresh_grant_reaches_the_process(start: Start) -> None:
    run = start({"wait": "grant"})
    run.supervisor.pull(0, lease_generation=1, grant=make_grant("jobs/j/attempts/0001-b/"))
    run.wait_for_text("granted jobs/j/attempts/0001-b/")


def test_the_environment_is_built_from_an_allow_list(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "environment.json"
    base = {"PATH": os.environ["PATH"], "HF_HOME": "/hub", "CUDA_HOME": "/cuda", "OMP_NUM_THREADS": "3"}
    secrets = {"TUNEPOOL_S3_SECRET_KEY": "s", "RAY_AUTH_TOKEN": "t", "AWS_SECRET_ACCESS_KEY": "a", "HF_TOKEN": "h"}
    run = start({"environment": str(file)}, environment={**base, **secrets, "CUDA_VISIBLE_DEVICES": "0,1"})
    run.pull_to_the_end()
    seen = json.loads(file.read_text())
    assert base.items() <= seen.items()
    assert not secrets.keys() & seen.keys()
    assert seen["CUDA_VISIBLE_DEVICES"] == "", "a CPU device sees no GPU"
    assert seen["TMPDIR"] == f"{run.spec.work_dir}/tmp"
    assert seen["TUNEPOOL_ATTEMPT_ID"] == run.spec.attempt_id
    unknown = seen.keys() - base.keys() - {"LC_CTYPE"}  # Python itself sets LC_CTYPE in a C locale
    assert unknown == {
        *("TUNEPOOL_ATTEMPT_ID", "TUNEPOOL_REPORT_FD", "TUNEPOOL_STUB", "TMPDIR", "PYTHONPATH"),
        *("PYTHONUNBUFFERED", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"),
    }


def test_a_cuda_device_is_the_only_one_that_the_process_sees(tmp_path: Path) -> None:
    file = tmp_path / "environment.json"
    spec = make_spec(tmp_path, {"environment": str(file)})
    device = spec.device.model_copy(update={"kind": "cuda", "index": 3})
    run = Supervised(spec.model_copy(update={"device": device}))
    run.supervisor.start()
    run.pull_to_the_end()
    seen = json.loads(file.read_text())
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["CUDA_DEVICE_ORDER"]) == ("3", "PCI_BUS_ID")
    assert "peak" not in run.kinds, "memory of a GPU is the worker's to report"
    run.supervisor.close()


def test_folder_and_spec_are_private_and_the_spec_goes_first(start: Start) -> None:
    run = start({"wait": "stop"})
    folder = Path(run.spec.work_dir)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "spec.json").stat().st_mode) == 0o600
    run.supervisor.stop(PAUSE, lease_generation=1, grace_seconds=15)
    run.pull_to_the_end()
    assert not (folder / "spec.json").exists()
    assert (folder / "journal.jsonl").exists()
    assert run.supervisor.close()
    assert not folder.exists()
    assert run.supervisor.close(), "safe to repeat"


def test_no_secret_of_the_spec_gets_into_the_journal(start: Start) -> None:
    failed = {"kind": "failed", "failure": "platform_error", "message": f"POST {SIGNATURE}", "detail": f"a\n{POLICY}"}
    run = start(
        {"print": f"signature {SIGNATURE}"},
        {"print_error": "\x1b[1m" + POLICY[:10] + "\x1b[0m" + POLICY[10:]},
        {"report": {"kind": "log", "stream": "tunepool", "text": f"hf_{'a' * 30}"}},
        {"raw_report": json.dumps({"at_unix": 1, "report": {"kind": SIGNATURE}})},
        {"report": failed},
    )
    run.pull_to_the_end()
    kept = (Path(run.spec.work_dir) / "journal.jsonl").read_text()
    assert kept.count("[redacted]") == 5
    for secret in (SIGNATURE, POLICY, "a" * 30):
        assert secret not in kept


def test_reports_that_cannot_be_read_are_dropped_and_told(start: Start) -> None:
    run = start({"raw_report": "not json"}, {"long_report": 5_000_000}, {"raw_report": ""}, progress(5))
    run.pull_to_the_end()
    told = texts_of(run.entries, "tunepool")
    assert len(told) == 2
    assert "cannot be read" in told[0]
    assert "longer than" in told[1]
    assert "progress" in run.kinds


def test_numbers_that_are_not_finite_are_left_out(start: Start) -> None:
    values = '{"train_loss": NaN, "grad_norm": Infinity, "learning_rate": 0.5}'
    run = start({"raw_report": f'{{"at_unix": 1, "report": {{"kind": "metric", "step": 3, "values": {values}}}}}'})
    run.pull_to_the_end()
    assert [e.report.values for e in run.entries if e.report.kind == "metric"] == [{"learning_rate": 0.5}]


def test_the_first_outcome_holds(start: Start) -> None:
    first = {"kind": "stopped", "reason": "paused", "step": 1}
    run = start({"report": first}, {"report": {**first, "reason": "timeout"}})
    run.pull_to_the_end()
    assert [e.report.reason for e in run.entries if isinstance(e.report, Stopped)] == ["paused"]


def test_a_flood_is_cut_down_and_the_rest_arrives(start: Start) -> None:
    run = start({"print_many": [60_000, "spam and spam"]}, {"wait": "stop"})
    wait_for(lambda: run.pull().more or "phase" in run.kinds)
    run.supervisor.stop(PAUSE, lease_generation=1, grace_seconds=20)
    run.pull_to_the_end()
    passed = len(texts_of(run.entries, "stdout"))
    assert 1000 < passed < 50_000
    dropped = [text for text in texts_of(run.entries, "tunepool") if "lines were dropped here" in text]
    assert sum(int(text.split()[0]) for text in dropped) == 60_000 - passed
    assert "stopped" in run.kinds


def test_the_peak_of_memory_is_reported_as_it_grows(start: Start) -> None:
    run = start({"eat": 200 * MIB}, progress(1), {"wait": "stop"})
    peaks = wait_for(
        lambda: run.pull() and [e.report for e in run.entries if isinstance(e.report, Peak) and is_big(e.report)]
    )
    assert peaks[0].device_bytes < 300 * MIB


def is_big(peak: Peak) -> bool:
    return peak.device_bytes > 200 * MIB


def test_what_the_process_left_behind_is_killed_with_it(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    run = start({"escape": str(file)}, {"exit": 0})
    run.pull_to_the_end()
    assert_gone(int(file.read_text()))


def test_closing_kills_whatever_runs(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    run = start({"escape": str(file)}, {"ignore": "stop"})
    wait_for(lambda: run.pull() and run.kinds.count("phase") == 2)
    assert run.supervisor.close()
    assert_gone(int(file.read_text()))


def test_an_attempt_runs_at_most_once_on_a_machine(tmp_path: Path) -> None:
    """The supervisor of a second launch serves what the first one, which was killed, left."""
    spec = make_spec(tmp_path, {"ignore": "stop"})
    run_and_kill_supervisor(spec, tmp_path)
    again = Supervised(spec)
    again.supervisor.start()
    pulled = again.pull_to_the_end()
    assert (pulled.alive, pulled.exit_code) == (False, None)
    assert again.kinds.count("phase") == 2
    assert again.supervisor.close()


def test_a_process_that_cannot_be_started_leaves_nothing_behind(tmp_path: Path) -> None:
    run = Supervised(make_spec(tmp_path), command=["/nowhere/python"])
    with pytest.raises(OSError, match="nowhere"):
        run.supervisor.start()
    assert list(tmp_path.iterdir()) == []
    second = Supervised(run.spec)
    second.supervisor.start()
    assert second.pull_to_the_end().exit_code == 0
    second.supervisor.close()


def test_the_process_ends_when_the_supervisors_process_is_killed(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, {"ignore": "stop"})
    run_and_kill_supervisor(spec, tmp_path)
    wait_for(lambda: not find_marked(spec.attempt_id), seconds=1.0)


def run_and_kill_supervisor(spec: AttemptSpec, folder: Path) -> None:
    """In a process of its own, which is killed while the training runs."""
    (folder / "spec").write_text(spec.model_dump_json())
    program = "import sys; from tests.unit.test_supervisor import die_while_it_runs; die_while_it_runs(sys.argv[1])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program, str(folder / "spec")], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL


def die_while_it_runs(spec_path: str) -> None:
    run = Supervised(AttemptSpec.model_validate_json(Path(spec_path).read_text()))
    run.supervisor.start()
    wait_for(lambda: run.pull() and run.kinds.count("phase") == 2)
    assert find_marked(run.spec.attempt_id)
    os.kill(os.getpid(), signal.SIGKILL)


def find_marked(attempt_id: str) -> list[str]:
    mark = f"TUNEPOOL_ATTEMPT_ID={attempt_id}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def assert_gone(pid: int) -> None:
    path = Path(f"/proc/{pid}/stat")
    assert not path.exists() or path.read_text().rpartition(")")[2].split()[0] == "Z"
