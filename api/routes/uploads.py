"""Uploads: a large file in parts, which may be sent at the same time and again."""

from collections.abc import Iterator
from functools import partial

from anyio import to_thread
from fastapi import APIRouter, Request

from api.dependencies import Id, Repeats, Uploads, Writer
from api.multipart import Form, Intake, receive_file
from api.openapi import failures, multipart
from api.requests import JsonRoute
from api.schemas.uploads import PartForm, PartOut, UploadComplete, UploadCreate, UploadOut
from orchestrator.domain.artifacts import UploadPart
from orchestrator.services.uploads import MAX_PART_BYTES

router = APIRouter(prefix="/v1/uploads", tags=["Uploads"], route_class=JsonRoute)


@router.post("", responses=failures(400, 409, 413), summary="Begin an upload")
def create_upload(body: UploadCreate, caller: Writer, uploads: Uploads, repeats: Repeats) -> UploadOut:
    """It takes parts for an hour."""
    upload = uploads.create(
        caller,
        filename=body.filename,
        mime_type=body.mime_type,
        purpose=body.purpose,
        size_bytes=body.bytes,
        expires_after_seconds=body.expires_after_seconds,
        marks=repeats,
    )
    return UploadOut.of(upload, None)


@router.post(
    "/{upload_id}/parts",
    responses=failures(400, 404, 409, 413),
    openapi_extra=multipart(PartForm),
    summary="Add a part",
)
async def add_part(upload_id: Id, request: Request, caller: Writer, uploads: Uploads, repeats: Repeats) -> PartOut:
    """Up to 64 MiB as multipart/form-data. A part that is sent twice without an Idempotency-Key may become two, of
    which the one that completing does not name is dropped."""

    def store(form: Form, chunks: Iterator[bytes]) -> UploadPart:
        return uploads.add_part(caller, upload_id, chunks, key=repeats.key)

    intake = Intake(file_field="data", max_file_bytes=MAX_PART_BYTES, limiter=request.app.state.upload_limiter)
    return PartOut.of(await receive_file(request, intake, store))


@router.post("/{upload_id}/complete", responses=failures(400, 404, 409, 413), summary="Complete an upload")
async def complete_upload(
    upload_id: Id, body: UploadComplete, request: Request, caller: Writer, uploads: Uploads
) -> UploadOut:
    """Make the parts, in the order given, a file. Done twice it gives the same file."""
    complete = partial(uploads.complete, caller, upload_id, body.part_ids, md5=body.md5)
    upload, file = await to_thread.run_sync(complete, limiter=request.app.state.upload_limiter)
    return UploadOut.of(upload, file)


@router.post("/{upload_id}/cancel", responses=failures(404, 409), summary="Cancel an upload")
def cancel_upload(upload_id: Id, caller: Writer, uploads: Uploads) -> UploadOut:
    return UploadOut.of(uploads.cancel(caller, upload_id), None)
