"""Uploads in parts, for files that are too large for one request.

Each part is an object of its own. Completing reads the parts in the given order into one new object, checked on the
way, and only then, in one transaction, makes it a file; done twice, it gives the same file. Parts belong to their
upload, and the upload to its team: both are asked for in every call.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import structlog

from orchestrator.domain.artifacts import File, Upload, UploadPart, UploadStatus
from orchestrator.domain.errors import (
    ConflictError,
    IllegalTransitionError,
    InvalidRequestError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from orchestrator.domain.ids import new_part_id, new_upload_id
from orchestrator.domain.teams import Caller
from orchestrator.objects.client import Objects
from orchestrator.objects.layout import upload_part_key, upload_prefix
from orchestrator.services import idempotency
from orchestrator.services.files import check_expiry, check_purpose, clean_filename, insert_dataset, store_dataset
from orchestrator.services.idempotency import UNMARKED, Marks, Repeat
from orchestrator.services.teams import require_member
from orchestrator.store import files, uploads
from orchestrator.store.session import ReadTx, Store, WriteTx

SCOPE = "POST /v1/uploads"
UPLOAD_SECONDS = 3600
"""How long an upload takes parts, as OpenAI's do."""
MAX_PART_BYTES = 64 * 1024**2
MAX_PARTS = 10_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Uploads:
    store: Store
    objects: Objects
    max_upload_bytes: int

    def create(
        self,
        caller: Caller,
        *,
        filename: str,
        mime_type: str,
        purpose: str,
        size_bytes: int,
        expires_after_seconds: int | None = None,
        marks: Marks = UNMARKED,
    ) -> Upload:
        """Announce a file of exactly `size_bytes`. The expiry is the file's, counted from its creation.

        A repeat, by its `marks`, gives the first one's upload. Raises IdempotencyMismatchError for another's key.
        """
        require_member(caller)
        accepted = check_purpose(purpose)
        check_expiry(expires_after_seconds)
        if size_bytes > self.max_upload_bytes:
            raise TooLargeError(f"at most {self.max_upload_bytes} bytes are accepted here", param="bytes")
        if size_bytes < 1:
            raise InvalidRequestError("bytes must be at least 1", param="bytes")
        said = {
            "filename": filename,
            "mime_type": mime_type,
            "purpose": purpose,
            "bytes": size_bytes,
            "expires_after_seconds": expires_after_seconds,
        }
        with self.store.write() as tx:
            upload_id = new_upload_id()
            first = _find_first(tx, caller, marks.of(said), upload_id)
            if first is not None:
                return first
            return uploads.insert_upload(
                tx,
                Upload(
                    upload_id=upload_id,
                    team_id=caller.team_id,
                    created_at=tx.now(),
                    expires_at=tx.now() + timedelta(seconds=UPLOAD_SECONDS),
                    filename=clean_filename(filename),
                    mime_type=clean_filename(mime_type),
                    purpose=accepted,
                    size_bytes=size_bytes,
                    status=UploadStatus.PENDING,
                    file_id=None,
                    file_expires_after_seconds=expires_after_seconds,
                ),
            )

    def get(self, caller: Caller, upload_id: str) -> tuple[Upload, File | None]:
        """The upload as it is now, and its file once it is completed, unless that was deleted."""
        with self.store.read() as tx:
            upload = _read(tx, caller, upload_id)
            return upload, files.find_file(tx, upload.file_id, upload.team_id) if upload.file_id else None

    def add_part(
        self, caller: Caller, upload_id: str, chunks: Iterable[bytes], *, key: str | None = None
    ) -> UploadPart:
        """Store a part; parts may come at the same time and in any order. The same bytes with the same idempotency
        `key` are the first one's part. Without a key every send is a part of its own: a file may have two parts with
        the same bytes, so they tell no repeat, and a part that is not named in the end is dropped.

        Raises TooLargeError, IllegalTransitionError when the upload takes no more, IdempotencyMismatchError.
        """
        require_member(caller)
        with self.store.read() as tx:
            upload = _require_open(_read(tx, caller, upload_id))
            known = uploads.list_parts(tx, upload_id)
        if len(known) >= MAX_PARTS:
            raise TooLargeError(f"an upload has at most {MAX_PARTS} parts", param="data")
        # A part whose answer was lost is sent again, so the sum may pass the announced size, within reason.
        left_bytes = 2 * upload.size_bytes + MAX_PART_BYTES - sum(part.size_bytes for part in known)
        part_id = new_part_id()
        object_key = upload_part_key(upload.team_id, upload_id, part_id)
        with self.objects.open_upload(object_key) as writer:
            for chunk in chunks:
                if writer.size_bytes + len(chunk) > min(MAX_PART_BYTES, left_bytes):
                    raise TooLargeError(
                        f"a part has at most {MAX_PART_BYTES} bytes, all parts together about the {upload.size_bytes} "
                        "that were announced",
                        param="data",
                    )
                writer.write(chunk)
            if not writer.size_bytes:
                raise InvalidRequestError("the part is empty", code="empty_part", param="data")
            written = writer.finish()
        repeat = Marks(key=key).of({"sha256": written.sha256})
        try:
            with self.store.write() as tx:
                scope = f"{SCOPE}/{upload_id}/parts"
                first_id = idempotency.claim(tx, caller, scope=scope, repeat=repeat, object_id=part_id)
                if first_id is None:
                    return uploads.insert_part(
                        tx,
                        UploadPart(
                            part_id=part_id,
                            upload_id=upload_id,
                            created_at=tx.now(),
                            size_bytes=written.size_bytes,
                            object_key=object_key,
                        ),
                    )
                first = uploads.get_part(tx, first_id, upload_id)
        except (ConflictError, NotFoundError):
            self.objects.delete(object_key)
            raise
        self.objects.delete(object_key)
        return first

    def complete(
        self, caller: Caller, upload_id: str, part_ids: Sequence[str], *, md5: str | None = None
    ) -> tuple[Upload, File]:
        """Make the parts, in this order, a file. `md5` is of the whole file, in hex.

        Repeating gives the file of the first time. Raises InvalidRequestError for parts that are not this upload's,
        that are named twice, or whose bytes are not as many, or not those, that were announced.
        """
        require_member(caller)
        with self.store.read() as tx:
            upload = _read(tx, caller, upload_id)
            if upload.status is UploadStatus.COMPLETED:
                return upload, _read_file(tx, upload)
            chosen = _choose_parts(_require_open(upload), uploads.list_parts(tx, upload_id), part_ids)
        joined = _join_parts(self.objects, chosen, md5)
        try:
            dataset = store_dataset(self.objects, upload.team_id, joined, max_bytes=upload.size_bytes)
        except NotFoundError:  # parts are freed only when the upload has ended
            return self._read_completed(caller, upload_id)
        try:
            with self.store.write() as tx:
                file = insert_dataset(
                    tx,
                    dataset,
                    filename=upload.filename,
                    purpose=upload.purpose,
                    expires_after_seconds=upload.file_expires_after_seconds,
                )
                upload = uploads.apply_upload_status(
                    tx, upload_id, from_=(UploadStatus.PENDING,), to=UploadStatus.COMPLETED, file_id=file.file_id
                )
        except IllegalTransitionError:
            self.objects.delete(dataset.written.key)
            return self._read_completed(caller, upload_id)
        self._drop_parts(upload)
        return upload, file

    def cancel(self, caller: Caller, upload_id: str) -> Upload:
        """Safe to repeat. Raises IllegalTransitionError when the upload was completed or has expired."""
        require_member(caller)
        with self.store.write() as tx:
            upload = _read(tx, caller, upload_id)
            if upload.status is not UploadStatus.CANCELLED:
                _require_open(upload)
                upload = uploads.apply_upload_status(
                    tx, upload_id, from_=(UploadStatus.PENDING,), to=UploadStatus.CANCELLED
                )
        self._drop_parts(upload)
        return upload

    def _read_completed(self, caller: Caller, upload_id: str) -> tuple[Upload, File]:
        """What another call, which was faster, has made of the upload."""
        with self.store.read() as tx:
            upload = _read(tx, caller, upload_id)
            if upload.status is not UploadStatus.COMPLETED:
                raise IllegalTransitionError(f"Upload {upload_id} is {upload.status.value}.")
            return upload, _read_file(tx, upload)

    def _drop_parts(self, upload: Upload) -> None:
        """Free the parts of an ended upload. What cannot be freed now is swept later, by its rows."""
        with self.store.read() as tx:
            parts = uploads.list_parts(tx, upload.upload_id)
        try:
            self.objects.delete_prefix(upload_prefix(upload.team_id, upload.upload_id))
            with self.store.write() as tx:
                for part in parts:
                    uploads.delete_part(tx, part.part_id)
        except UnavailableError as error:
            log.warning("parts of an upload are left to the sweep", upload=upload.upload_id, reason=error.message)


def _find_first(tx: WriteTx, caller: Caller, repeat: Repeat, upload_id: str) -> Upload | None:
    """None when the request is new, and recorded as the maker of `upload_id`; else the upload that the first one made.

    An upload that has parts, or an end, was answered: what says the same without a key is another wish for one.
    """
    first_id = idempotency.claim(tx, caller, scope=SCOPE, repeat=repeat, object_id=upload_id)
    if first_id is None:
        return None
    first = uploads.get_upload(tx, first_id, caller.team_id)
    if repeat.key is not None or (first.status is UploadStatus.PENDING and not uploads.list_parts(tx, first_id)):
        return first
    again = idempotency.claim(tx, caller, scope=SCOPE, repeat=replace(repeat, retries=0), object_id=upload_id)
    assert again is None, "a first send without a key is never a repeat"
    return None


def _read(tx: ReadTx, caller: Caller, upload_id: str) -> Upload:
    """The upload, expired from the moment on which it does, whenever that is written down."""
    upload = uploads.get_upload(tx, upload_id, caller.visible_team_id)
    if upload.status is UploadStatus.PENDING and upload.expires_at <= tx.now():
        return replace(upload, status=UploadStatus.EXPIRED)
    return upload


def _read_file(tx: ReadTx, upload: Upload) -> File:
    assert upload.file_id is not None, "the database holds this"
    return files.get_file(tx, upload.file_id, upload.team_id)


def _require_open(upload: Upload) -> Upload:
    if upload.status is not UploadStatus.PENDING:
        raise IllegalTransitionError(f"Upload {upload.upload_id} is {upload.status.value}.")
    return upload


def _choose_parts(upload: Upload, known: Sequence[UploadPart], part_ids: Sequence[str]) -> list[UploadPart]:
    by_id = {part.part_id: part for part in known}
    unknown = [part_id for part_id in part_ids if part_id not in by_id]
    if unknown:
        raise InvalidRequestError(f"No such part of this upload: {unknown[0]}", code="unknown_part", param="part_ids")
    if len(set(part_ids)) != len(part_ids):
        raise InvalidRequestError("A part is named twice.", code="duplicate_part", param="part_ids")
    chosen = [by_id[part_id] for part_id in part_ids]
    size_bytes = sum(part.size_bytes for part in chosen)
    if size_bytes != upload.size_bytes:
        raise InvalidRequestError(
            f"The parts have {size_bytes} bytes together, and {upload.size_bytes} were announced.",
            code="size_mismatch",
            param="part_ids",
        )
    return chosen


def _join_parts(objects: Objects, parts: Sequence[UploadPart], md5: str | None) -> Iterator[bytes]:
    """The bytes of all parts in order. Raises InvalidRequestError after the last one when the MD5 is another."""
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        stream = objects.stream(part.object_key)
        try:
            for chunk in stream:
                digest.update(chunk)
                yield chunk
        finally:
            stream.close()
    if md5 is not None and digest.hexdigest() != md5.lower():
        raise InvalidRequestError("The MD5 of the parts together is another one.", code="md5_mismatch", param="md5")
