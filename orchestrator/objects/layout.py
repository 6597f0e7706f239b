"""Names of objects in the bucket. Pure: identifiers go in, keys come out; no user text is ever part of a key."""

import re

MANIFEST_NAME = "manifest.json"
_SAFE = re.compile(r"^[A-Za-z0-9_-]+$")


def file_key(team_id: str, file_id: str) -> str:
    return f"teams/{_part(team_id)}/files/{_part(file_id)}"


def upload_prefix(team_id: str, upload_id: str) -> str:
    return f"teams/{_part(team_id)}/uploads/{_part(upload_id)}/"


def upload_part_key(team_id: str, upload_id: str, part_id: str) -> str:
    return upload_prefix(team_id, upload_id) + _part(part_id)


def attempt_prefix(job_id: str, attempt_id: str, number: int) -> str:
    """Everything that one attempt writes; the number makes attempts sort, the identifier keeps them apart."""
    return f"jobs/{_part(job_id)}/attempts/{number:04d}-{_part(attempt_id)}/"


def job_prefix(job_id: str) -> str:
    return f"jobs/{_part(job_id)}/"


def checkpoint_prefix(attempt: str, step: int) -> str:
    """`attempt` is an attempt's prefix."""
    return f"{attempt}checkpoints/step-{step:08d}/"


def adapter_prefix(attempt: str) -> str:
    return f"{attempt}adapter/"


def checkpoint_step(key: str) -> int | None:
    """The step of a key below a checkpoint's prefix; None for any other key."""
    found = re.search(r"/checkpoints/step-(\d{8})/", key)
    return int(found.group(1)) if found else None


def _part(text: str) -> str:
    if not _SAFE.match(text):
        raise ValueError(f"{text!r} cannot be part of an object key")
    return text
