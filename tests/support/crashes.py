"""kill -9 at a chosen moment: before or after any commit, any call of the cluster, any write to the object store."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.objects.client import Objects
from orchestrator.store.session import ReadTx, Store, WriteTx
from tests.support.launchers import ScriptedLauncher


class Killed(BaseException):
    """The control plane is gone. Not an Exception, so that no loop can handle it."""


class KillSwitch:
    """Kills at boundary number `at`, counted from 0; never for None. `passed` names the boundaries that were met."""

    def __init__(self, at: int | None) -> None:
        self._at = at
        self.passed: list[str] = []

    def __call__(self, boundary: str) -> None:
        self.passed.append(boundary)
        if self._at is not None and len(self.passed) == self._at + 1:
            raise Killed(boundary)


class FragileStore(Store):
    """The same database through another `Store`. A kill before the commit takes the transaction with it."""

    def __init__(self, url: str, switch: Callable[[str], None]) -> None:
        super().__init__(url)
        self._switch = switch

    @contextmanager
    def read(self) -> Iterator[ReadTx]:
        with super().read() as tx:
            yield tx

    @contextmanager
    def write(self) -> Iterator[WriteTx]:
        with super().write() as tx:
            yield tx
            self._switch("before commit")
        self._switch("after commit")


class FragileLauncher(ScriptedLauncher):
    """Workers that outlive the kill, behind a cluster whose calls may be the last thing that happens."""

    def __init__(self, *arguments: object, switch: Callable[[str], None], **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.before = lambda call: switch(f"before {call}") if call not in {"list_devices", "pull"} else None


def fragile_objects(objects: Objects, switch: Callable[[str], None]) -> Objects:
    """The same bucket, with a boundary after each write."""
    fragile = copy.copy(objects)
    put = objects.put

    def put_then_maybe_die(key: str, body: bytes, *, content_type: str = "application/octet-stream") -> None:
        put(key, body, content_type=content_type)
        switch("after put")

    fragile.put = put_then_maybe_die  # type: ignore[method-assign]
    return fragile
