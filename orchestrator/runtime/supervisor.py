"""Who looks after one attempt on its node? Starts the training process, keeps its journal, answers pulls, ends it.

Plain threads and pipes, so that the same code runs in a Ray actor and in a test. Invariants: the training runs at most
once per attempt; a caller with an older lease generation is refused; a process that nobody pulls from for longer than
its lease is stopped from here, without anybody's help; once a pull says that nothing is alive, the journal is complete.
"""

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.domain.protocol import AttemptSpec, Peak, Pulled, StopReason, UploadGrant
from orchestrator.runtime.child import Child, default_command, write_private
from orchestrator.runtime.journal import Journal
from orchestrator.runtime.lease import TERM_SECONDS, Ending, Lease
from orchestrator.runtime.processes import kill_attempt_processes, read_tree_bytes
from orchestrator.runtime.ranks import Ranks, start_ranks
from orchestrator.runtime.recorder import Recorder
from orchestrator.runtime.workspace import claim_start, drop_work_dir, find_record, forget_start, make_work_dir

TICK_SECONDS = 0.2
SAMPLE_SECONDS = 1.0
PEAK_STEP_BYTES = 16 * 1024 * 1024
"""A peak is reported again when it grew by this much, and once more at the end."""
DRAIN_SECONDS = 10.0
"""How long the pipes are read on after the process ended: they hold its last words."""
KILL_SECONDS = 10.0
START_SECONDS = 60.0


class Supervisor:
    """One attempt, from start to close. Every method may be called from any thread, and again."""

    def __init__(
        self,
        spec: AttemptSpec,
        *,
        lease_generation: int,
        stop_grace_seconds: float,
        command: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        is_dedicated: bool = False,
        term_seconds: float = TERM_SECONDS,
    ) -> None:
        """`stop_grace_seconds` is the time to save in when the lease runs out; `term_seconds` is between SIGTERM and
        SIGKILL after it. `is_dedicated`: this process serves nothing else, so that a clean-up may kill it."""
        self._spec = spec
        self._work_dir = Path(spec.work_dir)
        self._command = (*(command or default_command()), "train", str(self._spec_path))
        self._environment = dict(os.environ if environment is None else environment)
        self._is_dedicated = is_dedicated
        self._grace_seconds = stop_grace_seconds
        self._term_seconds = term_seconds
        self._lease = Lease(generation=lease_generation, seconds=spec.lease_seconds)
        self._journal: Journal | None = None
        self._recorder: Recorder | None = None
        self._ending: Ending | None = None
        self._exit_code: int | None = None
        self._start_error: Exception | None = None
        self._is_started = threading.Event()
        self._is_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"attempt-{spec.attempt_id[-8:]}", daemon=True)

    @property
    def silent_seconds(self) -> float:
        """Seconds since somebody pulled."""
        return self._lease.silent_seconds

    def start(self) -> None:
        """Start the training process, unless this attempt was started on this machine before: then its journal is
        served as it is. Raises OSError when nothing could be started; then nothing is left behind."""
        self._thread.start()
        if not self._is_started.wait(START_SECONDS):
            raise OSError("the training process could not be started in time")
        if self._start_error is not None:
            raise self._start_error

    def accept(self, lease_generation: int) -> None:
        """Take orders from this generation on. Raises LeaseLostError when a newer one has called before."""
        self._lease.accept(lease_generation)

    def pull(self, cursor: int, *, lease_generation: int, grant: UploadGrant | None = None) -> Pulled:
        """Entries after `cursor`; renews the lease. Raises LeaseLostError."""
        self._lease.accept(lease_generation)
        self._lease.renew()
        if grant is not None and self._ending is not None and self._recorder is not None:
            self._recorder.add_secrets(grant)
            self._ending.send_grant(grant.model_dump())
        # Asked before the journal is read: what is read after the end is complete.
        is_ended = self._is_ended.is_set()
        assert self._journal is not None, "pulled before it was started"
        page = self._journal.read(cursor)
        exit_code = self._exit_code if is_ended else None
        return Pulled(entries=page.entries, alive=not is_ended, exit_code=exit_code, more=page.more)

    def stop(self, stop: StopReason, *, lease_generation: int, grace_seconds: float) -> None:
        """Ask the process to stop; it is killed after the grace. A later call can only shorten the grace."""
        self._lease.accept(lease_generation)
        if self._ending is not None:
            self._ending.ask(stop, grace_seconds)

    def wait_ended(self, timeout_seconds: float | None = None) -> bool:
        """Until the training process is gone and the journal complete; False when it still runs."""
        return self._is_ended.wait(timeout_seconds)

    def close(self) -> bool:
        """Kill what is left and drop the attempt's folder; True on proof that no process of it lives."""
        if self._ending is not None:
            self._ending.kill_soon()
        is_gone = kill_attempt_processes(self._spec.attempt_id, timeout_seconds=KILL_SECONDS)
        is_gone = self._is_ended.wait(DRAIN_SECONDS + KILL_SECONDS) and is_gone
        if is_gone:
            if self._journal is not None:
                self._journal.close()
            drop_work_dir(self._work_dir)
            forget_start(self._spec.attempt_id)
        return is_gone

    @property
    def _spec_path(self) -> Path:
        return Path(self._spec.work_dir) / "spec.json"

    def _run(self) -> None:
        """The one thread that starts the children and stays until they ended: see `child` for why."""
        try:
            ranks = self._start()
        except Exception as error:
            self._start_error = error
            ranks = None
        self._is_started.set()
        try:
            if ranks is not None:
                self._watch(ranks)
        except BaseException:
            # Nobody would watch them any more.
            assert ranks is not None
            _signal_all(ranks)
            self._exit_code, *_ = [child.process.wait() for child in ranks.children]
            raise
        finally:
            self._is_ended.set()

    def _start(self) -> Ranks | None:
        attempt_id = self._spec.attempt_id
        if not claim_start(attempt_id, self._work_dir, dedicated=self._is_dedicated):
            if find_record(attempt_id) is None:
                raise OSError("the attempt was ended on this node before it started")
            self._journal = Journal(self._work_dir / "journal.jsonl")
            return None
        try:
            make_work_dir(self._work_dir)
            self._journal = Journal(self._work_dir / "journal.jsonl")
            self._recorder = Recorder(self._journal, self._spec, holds_failures=len(self._spec.devices) > 1)
            write_private(self._spec_path, self._spec.model_dump_json())
            children = start_ranks(self._spec, self._command, environment=self._environment, work_dir=self._work_dir)
        except Exception:
            drop_work_dir(self._work_dir)
            forget_start(attempt_id)
            raise
        ranks = Ranks(children)
        self._ending = Ending(ranks.lead, term_seconds=self._term_seconds)
        return ranks

    def _watch(self, ranks: Ranks) -> None:
        recorder, ending = self._recorder, self._ending
        assert recorder is not None
        assert ending is not None
        pumps = [pump for child in ranks.children for pump in _start_pumps(child, recorder)]
        self._wait_for_end(ranks, recorder, ending)
        self._exit_code = exit_code = ranks.get_exit_code()
        # Before the children are waited for, so that their process ids still mean their groups. What they left behind
        # would hold their pipes, and their devices.
        _signal_all(ranks)
        kill_attempt_processes(self._spec.attempt_id, timeout_seconds=KILL_SECONDS)
        for child in ranks.children:
            child.process.wait()
        ending.close()
        self._spec_path.unlink(missing_ok=True)
        deadline = time.monotonic() + DRAIN_SECONDS
        for pump in pumps:
            pump.join(max(0.0, deadline - time.monotonic()))
        recorder.settle(was_killed=exit_code < 0)
        recorder.finish()
        if not any(pump.is_alive() for pump in pumps):
            for child in ranks.children:
                child.close()

    def _wait_for_end(self, ranks: Ranks, recorder: Recorder, ending: Ending) -> None:
        pids = [child.pid for child in ranks.children]
        meter = _PeakMeter(pids, recorder) if self._spec.device.kind == "cpu" else None
        try:
            while not ranks.wait(TICK_SECONDS):
                ending.flush()
                if self._lease.is_over and not ending.is_asked:
                    recorder.note(f"no control plane asked for {self._lease.seconds} s; stopping", "warn")
                    ending.ask(StopReason(reason="lease_expired", save=True), self._grace_seconds)
                if ending.enforce():
                    recorder.note("the process did not stop in the time that it was given and is killed", "warn")
                if meter is not None:
                    meter.sample()
        finally:
            ranks.close()
        if meter is not None:
            meter.report()


class _PeakMeter:
    """The highest peak of a child's memory on a device that is a share of RAM, reported while it grows."""

    def __init__(self, pids: Sequence[int], recorder: Recorder) -> None:
        self._pids = pids
        self._recorder = recorder
        self._due_at = 0.0
        self._peak_bytes = 0
        self._reported_bytes = 0

    def sample(self) -> None:
        if time.monotonic() < self._due_at:
            return
        self._due_at = time.monotonic() + SAMPLE_SECONDS
        self._peak_bytes = max(self._peak_bytes, *map(read_tree_bytes, self._pids))
        if self._peak_bytes >= self._reported_bytes + PEAK_STEP_BYTES:
            self.report()

    def report(self) -> None:
        """Allocator figures are a GPU's; there is none here."""
        if self._peak_bytes > self._reported_bytes:
            self._reported_bytes = self._peak_bytes
            self._recorder.record(Peak(allocated_bytes=0, reserved_bytes=0, device_bytes=self._peak_bytes))


def _signal_all(ranks: Ranks) -> None:
    for child in ranks.children:
        child.signal(signal.SIGKILL)


def _start_pumps(child: Child, recorder: Recorder) -> list[threading.Thread]:
    """One reading thread per pipe, so that no pipe can hold up another."""
    pumps = [
        threading.Thread(target=recorder.pump_reports, args=(child.reports,), daemon=True),
        threading.Thread(target=recorder.pump_output, args=(child.stdout, "stdout"), daemon=True),
        threading.Thread(target=recorder.pump_output, args=(child.stderr, "stderr"), daemon=True),
    ]
    for pump in pumps:
        pump.start()
    return pumps
