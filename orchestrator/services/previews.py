"""A file as one of the pool's models sees it: rows rendered by its template, what is learned, and how long rows are.

Nothing of it is stored: rows are training data. The newest answers are kept in memory, because files and models do not
change, and one is made at a time, because each takes a process of some hundred MiB.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.domain.artifacts import FileStatus
from orchestrator.domain.errors import InvalidRequestError, UnavailableError
from orchestrator.domain.pool import BaseModel
from orchestrator.domain.previews import PreviewResult, PreviewSpec
from orchestrator.domain.protocol import ModelSource
from orchestrator.domain.teams import Caller
from orchestrator.services.files import Files
from orchestrator.store import models
from orchestrator.store.session import Store

MOST_BYTES = 4 * 1024**2
"""Of a file: some ten thousand chats, a few seconds of tokenizing."""
MOST_ROWS = 5
MOST_CHARACTERS = 8_000
KEPT = 32
SEATS = 2
"""One preview is made, and one waits for it; more would hold the threads that answer requests."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """`is_whole`: all rows of the file were looked at, not only its beginning."""

    model: str
    result: PreviewResult
    is_whole: bool


class Previews:
    """`render` asks a process; `source` tells it where the model is."""

    def __init__(
        self,
        store: Store,
        files: Files,
        *,
        source: Callable[[BaseModel], ModelSource],
        render: Callable[[PreviewSpec], PreviewResult],
        cache_dir: str,
    ) -> None:
        self._store, self._files = store, files
        self._source, self._render, self._cache_dir = source, render, cache_dir
        self._seats, self._turn = threading.Semaphore(SEATS), threading.Lock()
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str, str], Preview] = OrderedDict()

    def find(self, caller: Caller, file_id: str, model_name: str) -> Preview | None:
        """The answer when it is at hand. Raises NotFoundError, as `show` does."""
        return self._recall(self._name(caller, file_id, model_name)[0])

    def show(self, caller: Caller, file_id: str, model_name: str) -> Preview:
        """May take some seconds. Raises NotFoundError for a file or a model that is not there, InvalidRequestError for
        a file that is not valid, UnavailableError when others wait already, TunepoolError when the process failed."""
        name, model = self._name(caller, file_id, model_name)
        found = self._recall(name)
        if found is not None:
            return found
        if not self._seats.acquire(blocking=False):
            raise UnavailableError("Other files are being rendered; try again in a moment.", code="preview_busy")
        try:
            with self._turn:
                return self._recall(name) or self._make(caller, file_id, name, model)
        finally:
            self._seats.release()

    def _name(self, caller: Caller, file_id: str, model_name: str) -> tuple[tuple[str, str, str], BaseModel]:
        file = self._files.get(caller, file_id)
        if file.status is not FileStatus.PROCESSED:
            raise InvalidRequestError("the file is not valid, so no model can be shown it", param="file_id")
        with self._store.read() as tx:
            model = models.get_model(tx, model_name)
        return (file.sha256, model.name, model.revision), model

    def _make(self, caller: Caller, file_id: str, name: tuple[str, str, str], model: BaseModel) -> Preview:
        content, is_whole = self._read_lines(caller, file_id)
        spec = PreviewSpec(
            model=self._source(model),
            content=content,
            most_rows=MOST_ROWS,
            most_characters=MOST_CHARACTERS,
            cache_dir=self._cache_dir,
        )
        made = Preview(model=model.name, result=self._render(spec), is_whole=is_whole)
        with self._lock:
            self._kept[name] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made

    def _recall(self, name: tuple[str, str, str]) -> Preview | None:
        with self._lock:
            found = self._kept.get(name)
            if found is not None:
                self._kept.move_to_end(name)
            return found

    def _read_lines(self, caller: Caller, file_id: str) -> tuple[str, bool]:
        """Whole lines from the beginning, and whether they are all."""
        file, start = self._files.read_start(caller, file_id, MOST_BYTES)
        is_whole = len(start) >= file.size_bytes
        kept = start if is_whole else start[: start.rfind(b"\n") + 1]
        return kept.decode("utf-8"), is_whole
