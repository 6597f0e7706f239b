"""Ports of the embedded stack, all on loopback: those that people meet are fixed, and moved only when taken."""

import fcntl
import random
import socket
from dataclasses import dataclass
from typing import TextIO

from api.stack.errors import StackError
from api.stack.folder import private_folder

HOST = "127.0.0.1"
API_PORT = 8080
S3_PORT = 8333
RAY_PORT = 6399
NEAR = 20
"""One above Redis's well-known neighbourhood, so that a Redis at 6379 (Ray's own default) is no obstacle."""
BLOCK = 20
INNER = range(20_000, 32_000, BLOCK)
"""Blocks for ports that nobody meets, by their first port, which is claimed for all. Linux gives outgoing connections
ports from 32768 on: one of those could be lost between our choice and the server's start, or while it restarts."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    api: int
    s3: int
    ray: int
    weed: tuple[int, ...]
    """Further ports of the object store: its inner services."""


class Claims:
    """Ports that one stack has picked and may not have opened yet; other stacks of this user leave them alone.

    Each is a locked file, so the kernel drops a claim with the process.
    """

    def __init__(self) -> None:
        self._held: list[TextIO] = []

    def take(self, port: int) -> bool:
        """Claim a port; False when it is in use or claimed by another stack."""
        handle = (private_folder() / f"port-{port}").open("a", encoding="utf-8")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return False
        self._held.append(handle)
        return is_free(port)

    def release(self) -> None:
        for handle in self._held:
            handle.close()


def choose_ports(claims: Claims, *, api_port: int | None, weed_count: int) -> Ports:
    """Pick ports that are free now. Raises StackError when the asked one is not."""
    if api_port is not None and not claims.take(api_port):
        raise StackError(f"port {api_port} is taken; give another one with --port, or leave it out")
    api = api_port if api_port is not None else _prefer(API_PORT, claims)
    s3, ray = _prefer(S3_PORT, claims), _prefer(RAY_PORT, claims)
    return Ports(api=api, s3=s3, ray=ray, weed=free_ports(weed_count, claims))


def is_free(port: int) -> bool:
    """Whether a server could listen now. REUSEADDR as servers set it: a port in TIME_WAIT counts as free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _prefer(port: int, claims: Claims) -> int:
    """The port, or one shortly after it, or any."""
    for near in range(port, port + NEAR):
        if claims.take(near):
            return near
    return free_ports(1, claims)[0]


def free_ports(count: int, claims: Claims) -> tuple[int, ...]:
    """At most BLOCK neighbours, all free now, in a block that is ours alone. Raises StackError when there is none."""
    for first in random.sample(INNER, len(INNER)):
        ports = tuple(range(first, first + count))
        if claims.take(first) and all(map(is_free, ports)):
            return ports
    raise StackError(f"no {count} free ports between {INNER.start} and {INNER.stop}")
