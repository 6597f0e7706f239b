"""How does a training process talk to the world? Reports out, stop requests in, files in and out: nothing else.

`RemoteContext` is the child of a supervisor: a pipe for reports, standard input for control, presigned requests for
files. `LocalContext` has the same rules with a folder in the place of all three, for a laptop and for tests.
"""

import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from orchestrator.domain.protocol import RemoteFile, Report, StopReason, StoredFile, UploadGrant
from workers.failures import StopRequested, StorageError
from workers.transfers import check_content, describe_file, download_file, new_client, upload_file

logger = logging.getLogger(__name__)


class Context(Protocol):
    """What a recipe may use. All methods may be called from any thread."""

    @property
    def key_prefix(self) -> str:
        """Where this attempt's objects go; ends in a slash."""
        ...

    def report(self, report: Report) -> None:
        """Hand over one report; it is in the supervisor's hands when this returns."""
        ...

    def should_stop(self) -> StopReason | None:
        """The newest request to stop, if there is one. Cheap: asked at every step."""
        ...

    def save(self, path: Path, key: str) -> StoredFile:
        """Store a file under `key`, which starts with the prefix. Raises StorageError."""
        ...

    def fetch(self, remote: RemoteFile, target: Path) -> None:
        """Bring a file to `target`, whole and checked, or not at all. Raises StorageError."""
        ...


def raise_if_stopped(context: Context) -> None:
    """Between the phases, so that a cancel does not wait for a model to load and then for its first step."""
    stop = context.should_stop()
    if stop is not None:
        raise StopRequested(stop)


class RemoteContext:
    """Reports are JSON lines on a pipe; lines of standard input are `{"stop": …}` or `{"grant": …}`.

    The end of standard input means that the supervisor is dead, so this process and its group end at once.
    """

    def __init__(
        self,
        grant: UploadGrant,
        *,
        report_fd: int,
        control: IO[str],
        on_orphaned: Callable[[], None] | None = None,
    ) -> None:
        self._grant = grant
        self._pipe = os.fdopen(report_fd, "wb", buffering=0)
        self._on_orphaned = on_orphaned or end_process_group
        self._lock = threading.Lock()
        self._stop: StopReason | None = None
        self._client = new_client()
        threading.Thread(target=self._listen, args=(control,), name="control", daemon=True).start()

    @property
    def key_prefix(self) -> str:
        return self._grant.key_prefix

    def report(self, report: Report) -> None:
        line = f'{{"at_unix":{time.time():.6f},"report":{report.model_dump_json()}}}\n'.encode()
        with self._lock:
            write_all(self._pipe, line, self._on_orphaned)

    def should_stop(self) -> StopReason | None:
        return self._stop

    def save(self, path: Path, key: str) -> StoredFile:
        upload_file(path, key, get_grant=lambda: self._grant, client=self._client)
        return describe_file(path)

    def fetch(self, remote: RemoteFile, target: Path) -> None:
        download_file(remote, target, client=self._client)

    def close(self) -> None:
        """Close the report pipe and the connections to the object store."""
        self._pipe.close()
        self._client.close()

    def _listen(self, control: IO[str]) -> None:
        try:
            with control:
                for line in control:
                    self._obey(line)
        finally:
            self._on_orphaned()

    def _obey(self, line: str) -> None:
        """A line that is not understood is logged and skipped: a newer supervisor may say more than we know."""
        try:
            message = json.loads(line)
            if "stop" in message:
                self._stop = StopReason.model_validate(message["stop"])
            elif "grant" in message:
                self._grant = UploadGrant.model_validate(message["grant"])
        except (ValueError, TypeError):
            logger.warning("a control line was not understood")


class FollowerContext(RemoteContext):
    """Of a rank that follows another one: it fetches, and tells how much memory it took and why it failed. Whether to
    stop, what to save and what else to say is the first one's business."""

    def report(self, report: Report) -> None:
        if report.kind in {"peak", "failed"}:
            super().report(report)

    def should_stop(self) -> StopReason | None:
        return None


class LocalContext:
    """Objects, reports and all below one folder. Files to fetch have file: addresses."""

    def __init__(self, folder: Path, *, key_prefix: str = "local/") -> None:
        self.folder = folder
        self._prefix = key_prefix
        self._lock = threading.Lock()
        self._stop: StopReason | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def key_prefix(self) -> str:
        return self._prefix

    def report(self, report: Report) -> None:
        line = f'{{"at_unix":{time.time():.6f},"report":{report.model_dump_json()}}}\n'
        with self._lock, (self.folder / "reports.jsonl").open("a") as file:
            file.write(line)

    def should_stop(self) -> StopReason | None:
        return self._stop

    def stop(self, stop: StopReason) -> None:
        """Ask the run that uses this context to stop."""
        self._stop = stop

    def save(self, path: Path, key: str) -> StoredFile:
        if not key.startswith(self._prefix):
            raise StorageError(f"{key} is not below {self._prefix}")
        target = self.folder / "objects" / key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        return describe_file(target)

    def fetch(self, remote: RemoteFile, target: Path) -> None:
        parts = urlsplit(remote.url)
        if parts.scheme != "file":
            raise StorageError(f"{remote.name} has no file: address")
        source = Path(url2pathname(parts.path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.part")
        try:
            shutil.copyfile(source, temporary)
            found = describe_file(temporary)
            check_content(remote, size_bytes=found.size_bytes, sha256=found.sha256)
            temporary.replace(target)
        except (OSError, ValueError) as error:
            raise StorageError(f"{remote.name} could not be copied: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)


def write_all(pipe: IO[bytes], line: bytes, on_orphaned: Callable[[], None]) -> None:
    """Write a whole line to a pipe, however often the kernel takes a part only. Nobody reads a closed pipe."""
    view = memoryview(line)
    try:
        while view:
            view = view[pipe.write(view) :]
    except BrokenPipeError:
        on_orphaned()


def end_process_group() -> None:
    """End this process at once, and its children when it leads its process group. Does not return."""
    sys.stderr.flush()
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
