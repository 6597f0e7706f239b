"""Ports of the embedded stack, all on loopback: those that people meet are fixed, and moved only when taken."""

import socket
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from api.stack.errors import StackError

HOST = "127.0.0.1"
API_PORT = 8080
S3_PORT = 8333
RAY_PORT = 6399
"""One above Redis's well-known neighbourhood, so that a Redis at 6379 (Ray's own default) is no obstacle."""


@dataclass(frozen=True, kw_only=True)
class Ports:
    api: int
    s3: int
    ray: int
    weed: tuple[int, ...]
    """Further ports of the object store: its inner services."""


def choose_ports(*, api_port: int | None, weed_count: int) -> Ports:
    """Pick ports that are free now. Raises StackError when the asked one is not."""
    if api_port is not None and not is_free(api_port):
        raise StackError(f"port {api_port} is taken; give another one with --port, or leave it out")
    api = api_port if api_port is not None else _prefer(API_PORT)
    s3, ray = _prefer(S3_PORT), _prefer(RAY_PORT)
    return Ports(api=api, s3=s3, ray=ray, weed=free_ports(weed_count, besides=(api, s3, ray)))


def is_free(port: int) -> bool:
    """Whether a server could listen now. REUSEADDR as servers set it: a port in TIME_WAIT counts as free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _prefer(port: int) -> int:
    return port if is_free(port) else free_ports(1)[0]


def free_ports(count: int, *, besides: Iterable[int] = ()) -> tuple[int, ...]:
    """Ports that the kernel gives out, all different; held open together while they are picked."""
    taken = set(besides)
    found: list[int] = []
    with ExitStack() as open_sockets:
        while len(found) < count:
            probe = open_sockets.enter_context(socket.socket())
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
            if port not in taken:
                found.append(port)
    return tuple(found)
