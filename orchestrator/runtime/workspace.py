"""Which attempts were ever started on this machine, and where are their folders?

One small file per attempt in a private folder of this user, made exclusively: whoever makes it first decides. A
supervisor that finds the file never starts the training again, so an attempt runs at most once; a clean-up that makes
it first keeps a supervisor that is still on its way from starting at all. The file also says where the attempt's folder
is, so that it can be dropped when the supervisor died.
"""

import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

from pydantic import BaseModel, ValidationError

from orchestrator.runtime.processes import ProcessName, name_process

KEEP_SECONDS = 7 * 24 * 3600
"""How long the files of attempts that will never start here are kept."""


class StartRecord(BaseModel):
    """`work_dir` is None when the attempt may not start here any more. `dedicated`: the process serves it alone."""

    work_dir: str | None
    pid: int
    start_ticks: int
    dedicated: bool


_NOBODY = StartRecord(work_dir=None, pid=0, start_ticks=0, dedicated=False)


def records_dir() -> Path:
    """Made on first use. Raises PermissionError when another user owns the name."""
    folder = Path(tempfile.gettempdir()) / f"tunepool-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder


def claim_start(attempt_id: str, work_dir: Path, *, dedicated: bool) -> bool:
    """Write the record of this process's attempt; False when it was started or ruled out before."""
    me = name_process(os.getpid())
    assert me is not None
    record = StartRecord(work_dir=str(work_dir), pid=me.pid, start_ticks=me.start_ticks, dedicated=dedicated)
    return _write_once(attempt_id, record)


def rule_out_start(attempt_id: str) -> StartRecord | None:
    """Keep the attempt from starting here; returns the record of its supervisor when it did start before."""
    if _write_once(attempt_id, _NOBODY):
        _drop_old_records()
        return None
    return find_record(attempt_id)


def seal_start(attempt_id: str) -> None:
    """Replace the record of a supervisor that is gone: the attempt may not start here any more."""
    os.replace(_write_draft(_NOBODY), _path(attempt_id))


def find_record(attempt_id: str) -> StartRecord | None:
    """The record of a supervisor that started; None when there is none, or when the attempt was ruled out."""
    try:
        record = StartRecord.model_validate_json(_path(attempt_id).read_bytes())
    except (OSError, ValidationError):
        return None
    return record if record.work_dir is not None else None


def forget_start(attempt_id: str) -> None:
    _path(attempt_id).unlink(missing_ok=True)


def process_of(record: StartRecord) -> ProcessName:
    return ProcessName(record.pid, record.start_ticks)


def make_work_dir(work_dir: Path) -> None:
    """The attempt's own folder, for no other user's eyes, with the folder for its temporary files."""
    work_dir.parent.mkdir(parents=True, exist_ok=True)
    work_dir.mkdir(mode=0o700, exist_ok=True)
    work_dir.chmod(0o700)
    (work_dir / "tmp").mkdir(mode=0o700, exist_ok=True)


def drop_work_dir(work_dir: Path) -> None:
    shutil.rmtree(work_dir, ignore_errors=True)


def _path(attempt_id: str) -> Path:
    if not attempt_id.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"{attempt_id!r} cannot be a file name")
    return records_dir() / attempt_id


def _write_once(attempt_id: str, record: StartRecord) -> bool:
    """Whole or not at all: a link to a finished file is made only where there is no file of that name."""
    draft = _write_draft(record)
    try:
        os.link(draft, _path(attempt_id))
    except FileExistsError:
        return False
    finally:
        os.unlink(draft)
    return True


def _write_draft(record: StartRecord) -> str:
    handle, draft = tempfile.mkstemp(dir=records_dir(), prefix=".")
    with os.fdopen(handle, "w") as stream:
        stream.write(record.model_dump_json())
    return draft


def _drop_old_records() -> None:
    """Only of attempts that were ruled out: the others go when their attempt is released."""
    oldest = time.time() - KEEP_SECONDS
    for path in records_dir().iterdir():
        try:
            if path.stat().st_mtime < oldest and (path.name.startswith(".") or find_record(path.name) is None):
                path.unlink(missing_ok=True)
        except (OSError, ValueError):
            continue
