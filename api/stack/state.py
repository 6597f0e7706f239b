"""What a running stack tells others about itself: stack.json in the data folder, replaced whole at every change."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from api.stack.folder import DataFolder, has_open, is_locked, read_json, write_private

Phase = Literal["starting", "ready", "degraded", "stopping", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class PartStatus:
    """`cause` says why the part was restarted last, empty otherwise."""

    name: str
    state: str
    pid: int | None
    restarts: int
    cause: str


@dataclass(frozen=True, kw_only=True)
class StackStatus:
    """`message` is set when the phase is failed. `started_at` is in Unix seconds."""

    phase: Phase
    pid: int
    url: str
    started_at: int
    parts: tuple[PartStatus, ...]
    ports: dict[str, int]
    message: str = ""
    first_start: bool = False
    """The first key was made by this start, so it is to be shown."""


def write_status(folder: DataFolder, status: StackStatus) -> None:
    write_private(folder.state_file, json.dumps(asdict(status), indent=2) + "\n")


def find_status(folder: DataFolder) -> StackStatus | None:
    """The status of the stack that runs on the folder now; None when none does, or when it has not told one yet.

    A file that says otherwise is what a killed stack left; the number of its process may be another program's by now.
    """
    status = _parse(read_json(folder.state_file)) if is_locked(folder) else None
    return status if status is not None and has_open(status.pid, folder.lock_file) else None


def find_last_status(folder: DataFolder) -> StackStatus | None:
    """The last word of a stack, running or not."""
    return _parse(read_json(folder.state_file))


def _parse(found: dict[str, Any]) -> StackStatus | None:
    if not found:
        return None
    parts = tuple(PartStatus(**part) for part in found.pop("parts", ()))
    return StackStatus(**found, parts=parts)
