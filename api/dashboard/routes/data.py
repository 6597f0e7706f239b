"""Data sets: brought, checked, looked at, deleted."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from api.dashboard.forms import Form, PageRoute
from api.dashboard.rendering import go_to, render
from api.dashboard.views.samples import SAMPLE_BYTES, read_samples
from api.dependencies import After, Files, Id, Reader, Writer
from api.multipart import Form as UploadForm
from api.multipart import Intake, receive_file
from api.schemas.files import FileOut
from orchestrator.domain.artifacts import File, FilePurpose
from orchestrator.domain.errors import TunepoolError
from orchestrator.domain.teams import Caller
from orchestrator.services.files import Files as FilesService

router = APIRouter(prefix="/data", route_class=PageRoute)
PAGE_FILES = 50


@router.get("")
def show_files(request: Request, caller: Reader, files: Files, after: After = None) -> Response:
    page = files.list(caller, limit=PAGE_FILES, after=after)
    values: dict[str, Any] = {
        "files": [(FileOut.of(file), file.report or {}) for file in page.items],
        "has_more": page.has_more,
        "is_first": after is None,
        "most_bytes": files.max_file_bytes,
    }
    return render(request, "data.html", values)


@router.post("")
async def upload_file(request: Request, caller: Writer, files: Files) -> Response:
    intake = Intake(
        file_field="file",
        needed_fields=(),
        max_file_bytes=request.app.state.settings.max_file_bytes,
        limiter=request.app.state.upload_limiter,
    )
    file = await receive_file(request, intake, partial(_store, files, caller))
    return go_to(request, f"/data/{file.file_id}")


def _store(files: FilesService, caller: Caller, form: UploadForm, chunks: Iterator[bytes]) -> File:
    return files.create(caller, filename=form.filename, purpose=FilePurpose.FINE_TUNE, chunks=chunks)


@router.get("/{file_id}")
def show_file(request: Request, file_id: Id, caller: Reader, files: Files) -> Response:
    file = files.get(caller, file_id)
    samples, problem = [], None
    if file.purpose is FilePurpose.FINE_TUNE:
        try:
            samples = read_samples(_read_start(files, caller, file_id))
        except TunepoolError as error:
            problem = error.message
    values = {"file": FileOut.of(file), "report": file.report or {}, "sha256": file.sha256}
    return render(request, "file.html", {**values, "samples": samples, "samples_problem": problem})


def _read_start(files: FilesService, caller: Caller, file_id: str) -> bytes:
    """The file's first bytes; the rest is not read."""
    _, chunks = files.content(caller, file_id)
    start = bytearray()
    for chunk in chunks:
        start += chunk
        if len(start) >= SAMPLE_BYTES:
            break
    close = getattr(chunks, "close", None)
    if close is not None:
        close()
    return bytes(start[:SAMPLE_BYTES])


@router.post("/{file_id}/delete")
def delete_file(request: Request, file_id: Id, caller: Writer, form: Form, files: Files) -> Response:
    files.delete(caller, file_id)
    return go_to(request, "/data")
