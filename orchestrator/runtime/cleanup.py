"""Is anything of an attempt left on this machine? Ends it, and answers True only on proof.

In this order: the attempt is kept from starting, its supervisor's process is ended, then everything that carries its
mark. So nothing can start after the last look.
"""

import os
from pathlib import Path

from orchestrator.runtime.processes import kill_attempt_processes, kill_process, wait_until_gone
from orchestrator.runtime.workspace import (
    StartRecord,
    drop_work_dir,
    find_record,
    forget_start,
    process_of,
    rule_out_start,
    seal_start,
)

CLEAN_SECONDS = 10.0
"""For each of the two kills. A process that outlives SIGKILL for so long hangs in the kernel."""


def clean_attempt(attempt_id: str, *, may_start_again: bool = False) -> bool:
    """End the attempt's supervisor and processes and drop its folder. May be repeated.

    `may_start_again` is for a launch that was taken back and will be asked for again.
    """
    record = find_record(attempt_id) if may_start_again else rule_out_start(attempt_id)
    if record is not None and not _end_supervisor(record):
        return False
    if not kill_attempt_processes(attempt_id, timeout_seconds=CLEAN_SECONDS):
        return False
    if record is not None:
        assert record.work_dir is not None
        drop_work_dir(Path(record.work_dir))
        if may_start_again:
            forget_start(attempt_id)
        else:
            seal_start(attempt_id)
    return True


def _end_supervisor(record: StartRecord) -> bool:
    """Only a process that serves this attempt alone; one that serves others has started its child long ago."""
    supervisor = process_of(record)
    if not record.dedicated or supervisor.pid == os.getpid():
        return True
    kill_process(supervisor)
    return wait_until_gone([supervisor], timeout_seconds=CLEAN_SECONDS)
