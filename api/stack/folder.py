"""The data folder of an embedded stack: where everything is, who may read it, and that one stack at a time uses it.

The folder is 0700 and every secret in it 0600. A lock on one file, held by the supervising process as long as it lives,
keeps a second stack out; the kernel drops it with the process, so no stale lock can be left.
"""

import fcntl
import hashlib
import json
import os
import secrets
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.stack.errors import StackError


@dataclass(frozen=True)
class DataFolder:
    """`root` is absolute."""

    root: Path

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def ray_token_file(self) -> Path:
        return self.secrets / "ray_token"

    @property
    def bootstrap_file(self) -> Path:
        return self.secrets / "bootstrap.json"

    @property
    def client_file(self) -> Path:
        return self.root / "client.json"

    @property
    def state_file(self) -> Path:
        return self.root / "stack.json"

    @property
    def lock_file(self) -> Path:
        return self.root / "stack.lock"

    @property
    def ray(self) -> Path:
        return self.root / "ray"


def open_folder(path: Path) -> DataFolder:
    """Make the folder and its parts when they are missing. Raises StackError when another user owns it."""
    folder = DataFolder(path.absolute())
    for part in (folder.root, folder.logs, folder.objects, folder.secrets, folder.ray):
        try:
            part.mkdir(mode=0o700, parents=part is folder.root, exist_ok=True)
        except OSError as error:
            raise StackError(f"cannot make the data folder {part}: {error.strerror}") from error
    if folder.root.stat().st_uid != os.getuid():
        raise StackError(f"the data folder {folder.root} belongs to another user; give another one with --data-dir")
    folder.root.chmod(0o700)
    return folder


class Lock:
    """The right to run the stack of one folder; given back by `release`, or by the death of the process."""

    def __init__(self, folder: DataFolder) -> None:
        self._handle = folder.lock_file.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._handle.close()
            raise StackError(_already_running(folder)) from None

    def release(self) -> None:
        self._handle.close()


def is_locked(folder: DataFolder) -> bool:
    """Whether a stack runs on this folder now."""
    if not folder.lock_file.exists():
        return False
    with folder.lock_file.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def has_open(pid: int, path: Path) -> bool:
    """Whether a process of this user has the file open now."""
    handles = Path(f"/proc/{pid}/fd")
    try:
        return any(os.readlink(handle) == str(path.resolve()) for handle in handles.iterdir())
    except OSError:
        return False


def _already_running(folder: DataFolder) -> str:
    state = read_json(folder.state_file)
    where = f" (process {state['pid']}, {state['url']})" if state.get("pid") and state.get("url") else ""
    return (
        f"a stack runs on {folder.root} already{where}; "
        "use it, end it with `tunepool down`, or give another folder with --data-dir"
    )


@dataclass(frozen=True)
class Secrets:
    """What the parts of one stack know each other by. Made once, kept in the folder, never shown."""

    stack_id: str
    s3_access_key: str
    s3_secret_key: str
    ray_token: str


def load_secrets(folder: DataFolder) -> Secrets:
    return Secrets(
        stack_id=_secret(folder.secrets / "stack_id", 8),
        s3_access_key=_secret(folder.secrets / "s3_access_key", 10),
        s3_secret_key=_secret(folder.secrets / "s3_secret_key", 32),
        ray_token=_secret(folder.ray_token_file, 32),
    )


def _secret(path: Path, size_bytes: int) -> str:
    if not path.exists():
        write_private(path, secrets.token_hex(size_bytes))
    return path.read_text(encoding="utf-8").strip()


def write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty when the file is missing or was cut."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def private_folder(*, longest: int = 60) -> Path:
    """A folder for links and claims, with a short path, that only this user can write; it is made when missing.

    Raises StackError when somebody else prepared it.
    """
    folder = Path(tempfile.gettempdir()) / f"tunepool-{os.getuid()}"
    if len(os.fsencode(folder)) > longest:
        folder = Path("/tmp") / folder.name  # noqa: S108 (owner and mode are checked below)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StackError(f"{folder} is not a private folder of this user; remove it")
    return folder


def short_path(folder: Path, *, longest: int) -> Path:
    """A path of at most so many bytes that leads to the folder: its own, or a link to it in the private folder."""
    if len(os.fsencode(folder)) <= longest:
        return folder
    private = private_folder(longest=longest - 9)
    for old in private.iterdir():
        if old.is_symlink() and not old.exists():
            old.unlink(missing_ok=True)
    link = private / hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
    if not link.is_symlink() or link.readlink() != folder:
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
    return link
