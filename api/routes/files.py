"""Files: data sets come in as a stream, data sets and results go out as one."""

from collections.abc import Iterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from api.dependencies import After, FileLimit, Files, Id, Order, Reader, Repeats, Writer
from api.downloads import Download
from api.multipart import Form, Intake, receive_file
from api.openapi import binary, failures, multipart
from api.requests import JsonRoute
from api.schemas.files import FileDeletedOut, FileForm, FileOut, read_expiry, read_purpose
from api.schemas.wire import ListPage, list_page
from orchestrator.domain.artifacts import File
from orchestrator.domain.teams import Caller
from orchestrator.services.files import Files as FilesService
from orchestrator.services.idempotency import Marks

router = APIRouter(prefix="/v1/files", tags=["Files"], route_class=JsonRoute)


@router.post("", responses=failures(400, 409, 413), openapi_extra=multipart(FileForm), summary="Upload a file")
async def create_file(request: Request, caller: Writer, files: Files, repeats: Repeats) -> FileOut:
    """A data set as multipart/form-data. It is checked on the way; `status` and `status_details` say the result."""
    intake = Intake(
        file_field="file",
        needed_fields=("purpose",),
        max_file_bytes=request.app.state.settings.max_file_bytes,
        limiter=request.app.state.upload_limiter,
    )
    return FileOut.of(await receive_file(request, intake, partial(_store, files, caller, repeats)))


def _store(files: FilesService, caller: Caller, marks: Marks, form: Form, chunks: Iterator[bytes]) -> File:
    return files.create(
        caller,
        filename=form.filename,
        purpose=read_purpose(form.fields),
        chunks=chunks,
        expires_after_seconds=lambda: read_expiry(form.fields),
        marks=marks,
    )


@router.get("", responses=failures(400), summary="List files")
def list_files(
    caller: Reader,
    files: Files,
    purpose: Annotated[str | None, Query(description="Only files of this purpose.")] = None,
    after: After = None,
    limit: FileLimit = 10_000,
    order: Order = "desc",
) -> ListPage[FileOut]:
    page = files.list(caller, purpose=purpose, limit=limit, after=after, descending=order == "desc")
    return list_page([FileOut.of(file) for file in page.items], has_more=page.has_more)


@router.get("/{file_id}", responses=failures(404), summary="Retrieve a file")
def get_file(file_id: Id, caller: Reader, files: Files) -> FileOut:
    return FileOut.of(files.get(caller, file_id))


@router.delete("/{file_id}", responses=failures(404, 409), summary="Delete a file")
def delete_file(file_id: Id, caller: Writer, files: Files) -> FileDeletedOut:
    """409 while a job that has not ended uses it."""
    files.delete(caller, file_id)
    return FileDeletedOut(id=file_id, object="file", deleted=True)


@router.get(
    "/{file_id}/content",
    responses=failures(404) | binary("The bytes of the file."),
    response_class=Response,
    summary="Download a file",
)
def get_file_content(file_id: Id, caller: Reader, files: Files) -> Response:
    file, chunks = files.content(caller, file_id)
    return Download(chunks, filename=file.filename, size_bytes=file.size_bytes)
