"""Files of a team: taken in as one stream, checked on the way, hidden at once when deleted.

A row exists only for bytes that are stored whole; a file name is display text and part of no key. The bytes of a hidden
file are swept later, when no job can need them any more.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

from orchestrator.domain.artifacts import File, FilePurpose, FileStatus
from orchestrator.domain.datasets import DatasetReport, DatasetValidator
from orchestrator.domain.errors import IdempotencyMismatchError, InvalidRequestError, NotFoundError, TooLargeError
from orchestrator.domain.ids import new_file_id
from orchestrator.domain.pages import Page
from orchestrator.domain.teams import Caller
from orchestrator.objects.client import Objects
from orchestrator.objects.layout import file_key
from orchestrator.objects.writer import WrittenObject
from orchestrator.services import idempotency
from orchestrator.services.idempotency import UNMARKED, Marks, Repeat
from orchestrator.services.teams import require_member
from orchestrator.store import files
from orchestrator.store.session import Store, WriteTx

SCOPE = "POST /v1/files"
MAX_FILENAME_CHARACTERS = 255
EXPIRY_SECONDS = range(3600, 2_592_001)
"""One hour to 30 days, OpenAI's range."""

Seconds = int | None


@dataclass(frozen=True, kw_only=True)
class StoredDataset:
    """Bytes that are stored and checked, and have no row yet."""

    file_id: str
    team_id: str
    written: WrittenObject
    report: DatasetReport


@dataclass(frozen=True, kw_only=True)
class Files:
    """`presigned_seconds` is how long a download address lives."""

    store: Store
    objects: Objects
    max_file_bytes: int
    presigned_seconds: int

    def create(
        self,
        caller: Caller,
        *,
        filename: str,
        purpose: str,
        chunks: Iterable[bytes],
        expires_after_seconds: Seconds | Callable[[], Seconds] = None,
        marks: Marks = UNMARKED,
    ) -> File:
        """Store and check a data set. A broken one is stored too, with status error and a report of its problems.

        The same bytes again under the same name give the first one's file when `marks` tell a repeat.
        `expires_after_seconds` may be a function: it is asked when the chunks are exhausted. An exception out of
        `chunks` leaves nothing behind. Raises TooLargeError, InvalidRequestError, ObjectsUnavailableError, and
        IdempotencyMismatchError for the key of another file.
        """
        require_member(caller)
        accepted = check_purpose(purpose)
        dataset = store_dataset(self.objects, caller.team_id, chunks, max_bytes=self.max_file_bytes)
        try:
            seconds = expires_after_seconds() if callable(expires_after_seconds) else expires_after_seconds
            check_expiry(seconds)
        except InvalidRequestError:
            self.objects.delete(dataset.written.key)
            raise
        said = {
            "sha256": dataset.written.sha256,
            "filename": filename,
            "purpose": purpose,
            "expires_after_seconds": seconds,
        }
        try:
            with self.store.write() as tx:
                repeat = marks.of(said)
                first_id = _claim_file(tx, caller, repeat, dataset.file_id)
                if first_id is None:
                    return insert_dataset(
                        tx, dataset, filename=filename, purpose=accepted, expires_after_seconds=seconds
                    )
                first = files.get_file(tx, first_id, caller.team_id)
        except (IdempotencyMismatchError, NotFoundError):
            self.objects.delete(dataset.written.key)
            raise
        self.objects.delete(dataset.written.key)
        return first

    def get(self, caller: Caller, file_id: str) -> File:
        with self.store.read() as tx:
            return files.get_file(tx, file_id, caller.visible_team_id)

    def list(
        self,
        caller: Caller,
        *,
        purpose: str | None = None,
        limit: int = 20,
        after: str | None = None,
        descending: bool = True,
    ) -> Page[File]:
        """A purpose that we never have lists nothing."""
        if purpose is not None and purpose not in set(FilePurpose):
            return Page((), has_more=False)
        with self.store.read() as tx:
            return files.list_files(
                tx,
                team_id=caller.visible_team_id,
                purpose=None if purpose is None else FilePurpose(purpose),
                limit=limit,
                after=after,
                descending=descending,
            )

    def delete(self, caller: Caller, file_id: str) -> None:
        """Hide the file. Raises NotFoundError, also when repeated; ConflictError while an unfinished job uses it."""
        require_member(caller)
        with self.store.write() as tx:
            files.mark_file_deleted(tx, file_id, caller.visible_team_id)

    def content(self, caller: Caller, file_id: str) -> tuple[File, Iterator[bytes]]:
        """The file and its bytes, of which the last come only if all are those that were stored.

        Raises NotFoundError, with code object_missing when the row is there and the bytes are not.
        """
        file = self.get(caller, file_id)
        chunks = self.objects.stream_checked(file.object_key, size_bytes=file.size_bytes, sha256=file.sha256)
        return file, chunks

    def read_start(self, caller: Caller, file_id: str, most_bytes: int) -> tuple[File, bytes]:
        """The file and its first bytes; the rest is not read. Raises as `content` does."""
        file, chunks = self.content(caller, file_id)
        start = bytearray()
        for chunk in chunks:
            start += chunk
            if len(start) >= most_bytes:
                break
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
        return file, bytes(start[:most_bytes])

    def presign(self, caller: Caller, file_id: str) -> str:
        """An address that reads this file until it expires, without a key."""
        file = self.get(caller, file_id)
        return self.objects.presign_get(file.object_key, self.presigned_seconds, file.filename)


def store_dataset(objects: Objects, team_id: str, chunks: Iterable[bytes], *, max_bytes: int) -> StoredDataset:
    """Store a stream under a new file's key and check it on the way. Raises TooLargeError as soon as it is too long."""
    file_id = new_file_id()
    validator = DatasetValidator()
    with objects.open_upload(file_key(team_id, file_id), content_type="application/jsonl") as writer:
        for chunk in chunks:
            if writer.size_bytes + len(chunk) > max_bytes:
                raise TooLargeError(f"at most {max_bytes} bytes are accepted here", param="file")
            writer.write(chunk)
            validator.feed(chunk)
        report = validator.finish()
        return StoredDataset(file_id=file_id, team_id=team_id, written=writer.finish(), report=report)


def _claim_file(tx: WriteTx, caller: Caller, repeat: Repeat, file_id: str) -> str | None:
    """None when the request is new; else the id of the file that the first one made.

    A file that was deleted since was answered: what says the same without a key is another wish for one.
    """
    first_id = idempotency.claim(tx, caller, scope=SCOPE, repeat=repeat, object_id=file_id)
    if first_id is None or repeat.key is not None or files.find_file(tx, first_id, caller.team_id) is not None:
        return first_id
    return idempotency.claim(tx, caller, scope=SCOPE, repeat=replace(repeat, retries=0), object_id=file_id)


def insert_dataset(
    tx: WriteTx, dataset: StoredDataset, *, filename: str, purpose: FilePurpose, expires_after_seconds: Seconds
) -> File:
    """Make a stored data set visible."""
    report, written = dataset.report, dataset.written
    now = tx.now()
    return files.insert_file(
        tx,
        File(
            file_id=dataset.file_id,
            team_id=dataset.team_id,
            created_at=now,
            filename=clean_filename(filename),
            purpose=purpose,
            size_bytes=written.size_bytes,
            sha256=written.sha256,
            status=FileStatus.PROCESSED if report.is_valid else FileStatus.ERROR,
            status_details=None if report.is_valid else report.problems[0].as_sentence(),
            report=report.as_json(),
            expires_at=None if expires_after_seconds is None else now + timedelta(seconds=expires_after_seconds),
            object_key=written.key,
        ),
    )


def check_purpose(purpose: str) -> FilePurpose:
    """Only data sets are brought; results are ours."""
    if purpose != FilePurpose.FINE_TUNE:
        raise InvalidRequestError(
            f"purpose must be {FilePurpose.FINE_TUNE.value!r}; nothing else is used here",
            code="unsupported_purpose",
            param="purpose",
        )
    return FilePurpose.FINE_TUNE


def check_expiry(seconds: Seconds) -> None:
    if seconds is not None and seconds not in EXPIRY_SECONDS:
        raise InvalidRequestError(
            f"expires_after[seconds] must be from {EXPIRY_SECONDS.start} to {EXPIRY_SECONDS.stop - 1}",
            param="expires_after[seconds]",
        )


def clean_filename(text: str) -> str:
    """What can be stored and shown of a name: no control characters, no half surrogates, not too long."""
    kept = "".join(character for character in text if character.isprintable())
    return kept[:MAX_FILENAME_CHARACTERS] or "file"
