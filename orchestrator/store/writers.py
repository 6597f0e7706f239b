"""How writers of one SQLite file take turns: first come first served, several to a commit, fair between processes.

SQLite has one writer at a time and waits by polling, so threads and processes that meet in it starve each other; and
each durable commit is one flush of the disk (5 ms on a busy two-core machine, 200 commits a second, 23 November 2026).
Here transactions queue. Those that wait already when one ends go on in the same SQLite transaction, each in a savepoint
of its own, and one commit makes all of them durable. Nobody returns before that commit, so what was acknowledged is on
the disk; when it fails, all of its transactions fail.
"""

import fcntl
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine

from orchestrator.domain.errors import StoreUnavailableError

LONGEST_WAIT_SECONDS = 30.0
MOST_IN_A_COMMIT = 64
LONGEST_COMMIT_SECONDS = 0.05
"""After either, the file is given up for a moment so that another process gets its turn."""
POLL_SECONDS = 0.001


class GroupWriter:
    """`engine` begins with BEGIN IMMEDIATE; `path` is the database file, beside which the lock files lie."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine = engine
        self._threads = Queue()
        self._processes = ProcessTurn(path)
        self._commit: _Commit | None = None

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Run one transaction; returns when it is durable."""
        self._threads.enter()
        try:
            commit = self._commit = self._commit or self._open()
        except BaseException:
            self._threads.leave()
            raise
        try:
            with commit.connection.begin_nested():
                yield commit.connection
        finally:
            commit.members += 1
            if commit.is_full() or not self._threads.hand_on():
                self._close(commit)
            # Also after an error: it may tell of what another of the group wrote, and that must have become true.
            commit.wait()

    def _open(self) -> "_Commit":
        self._processes.take()
        try:
            connection = self._engine.connect()
            try:
                connection.begin()
            except BaseException:
                connection.close()
                raise
        except BaseException:
            self._processes.give()
            raise
        return _Commit(connection)

    def _close(self, commit: "_Commit") -> None:
        """Commit, let others write, then tell everyone who waits. Only the thread whose turn it is comes here."""
        self._commit = None
        try:
            commit.finish()
        finally:
            self._processes.give()
            self._threads.leave()
            commit.done.set()

    def close(self) -> None:
        self._engine.dispose()
        self._processes.close()


class _Commit:
    """The transactions that one commit makes durable."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.members = 0
        self.done = threading.Event()
        self._error: BaseException | None = None
        self._opened = time.monotonic()

    def is_full(self) -> bool:
        return self.members >= MOST_IN_A_COMMIT or time.monotonic() - self._opened > LONGEST_COMMIT_SECONDS

    def finish(self) -> None:
        """Some errors (a full disk) make SQLite roll back by itself, and the driver would then commit nothing."""
        try:
            driver = self.connection.connection.driver_connection
            if driver is None or not driver.in_transaction:
                raise StoreUnavailableError("The database rolled the transaction back.")
            self.connection.commit()
        except Exception as error:
            self._error = error
        except BaseException as error:
            self._error = error
            raise
        finally:
            self.connection.close()

    def wait(self) -> None:
        self.done.wait()
        if self._error is not None:
            raise StoreUnavailableError from self._error


class Queue:
    """A lock that is passed on in the order in which threads asked for it."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    def enter(self) -> None:
        """Raises StoreUnavailableError when the turn does not come in time."""
        with self._mutex:
            if not self._taken:
                self._taken = True
                return
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        if turn.acquire(timeout=LONGEST_WAIT_SECONDS):
            return
        with self._mutex:
            if turn in self._waiting:
                self._waiting.remove(turn)
                raise StoreUnavailableError("Too many writers wait for the database.")

    def hand_on(self) -> bool:
        """Give the turn to whoever waited longest; False when nobody waits, and the turn is kept."""
        with self._mutex:
            if not self._waiting:
                return False
            self._waiting.popleft().release()
            return True

    def leave(self) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False


class ProcessTurn:
    """A fair lock between processes: who writes must queue again, behind a process that waits. Freed by the kernel when
    its holder dies. Two file locks: one to write, and one to be the next."""

    def __init__(self, path: Path) -> None:
        self._next = os.open(f"{path}-next", os.O_RDWR | os.O_CREAT, 0o600)
        self._writing = os.open(f"{path}-writing", os.O_RDWR | os.O_CREAT, 0o600)

    def take(self) -> None:
        """Raises StoreUnavailableError when the turn does not come in time."""
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        _poll(lambda: _try_lock(self._next), deadline)
        try:
            _poll(lambda: _try_lock(self._writing), deadline)
        finally:
            fcntl.flock(self._next, fcntl.LOCK_UN)

    def give(self) -> None:
        fcntl.flock(self._writing, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._next)
        os.close(self._writing)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _poll(attempt: Callable[[], bool], deadline: float) -> None:
    while not attempt():
        if time.monotonic() > deadline:
            raise StoreUnavailableError("Another process holds the database.")
        time.sleep(POLL_SECONDS)
