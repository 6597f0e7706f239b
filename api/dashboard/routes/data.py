"""Data sets: brought, checked, looked at, deleted."""

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from api.dashboard.forms import Form, PageRoute
from api.dashboard.rendering import go_to, render
from api.dashboard.views.lengths import describe_preview
from api.dashboard.views.samples import SAMPLE_BYTES, read_samples
from api.dependencies import After, Files, Id, Models, Previews, Reader, Writer
from api.multipart import Form as UploadForm
from api.multipart import Intake, receive_file
from api.schemas.files import FileOut
from orchestrator.domain.artifacts import File, FilePurpose, FileStatus
from orchestrator.domain.errors import TunepoolError
from orchestrator.domain.teams import Caller
from orchestrator.services.files import Files as FilesService
from orchestrator.services.previews import Preview
from orchestrator.services.previews import Previews as PreviewsService

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
def show_file(
    request: Request,
    file_id: Id,
    caller: Reader,
    files: Files,
    models: Models,
    previews: Previews,
    model: Annotated[str, Query(max_length=512)] = "",
) -> Response:
    """With `model`, also as that model sees it."""
    file = files.get(caller, file_id)
    samples, problem = [], None
    if file.purpose is FilePurpose.FINE_TUNE:
        try:
            samples = read_samples(files.read_start(caller, file_id, SAMPLE_BYTES)[1])
        except TunepoolError as error:
            problem = error.message
    names = [found.name for found in models.list(caller)] if file.status is FileStatus.PROCESSED and samples else []
    preview = _find_preview(caller, previews, file_id, names=names, asked=model)
    values = {"file": FileOut.of(file), "report": file.report or {}, "sha256": file.sha256, "models": names}
    shown = {"samples": samples, "samples_problem": problem, **describe_preview(preview)}
    return render(request, "file.html", {**values, **shown})


def _find_preview(
    caller: Caller, previews: PreviewsService, file_id: str, *, names: list[str], asked: str
) -> Preview | None:
    """What is asked for is made; of the others, what is at hand is shown."""
    if asked:
        return previews.show(caller, file_id, asked)
    found = (previews.find(caller, file_id, name) for name in names)
    return next(filter(None, found), None)


@router.get("/{file_id}/tokens")
def show_tokens(
    request: Request, file_id: Id, caller: Reader, previews: Previews, model: Annotated[str, Query(max_length=512)]
) -> Response:
    """The part of the file's page that takes some seconds."""
    return render(request, "parts/tokens.html", describe_preview(previews.show(caller, file_id, model)))


@router.post("/{file_id}/delete")
def delete_file(request: Request, file_id: Id, caller: Writer, form: Form, files: Files) -> Response:
    files.delete(caller, file_id)
    return go_to(request, "/data")
