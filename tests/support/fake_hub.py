"""A model hub on a free port: the few addresses of the Hugging Face hub that reading a model needs."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """`models`: id to files. `failures`: id to (status, the hub's error code). `requests`: method-less log."""

    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    failures: dict[str, tuple[int, str]] = field(default_factory=dict)
    ignores_ranges: bool = False
    redirects_to: str = ""
    """Another origin for the files' bytes, as the hub's content network is."""
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    bytes_sent: int = 0
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Silence."""

    def do_GET(self) -> None:
        hub: FakeHub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)
        hub.requests.append((path, {name.lower(): value for name, value in self.headers.items()}))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._send_info(hub, "/".join(parts[2:4]), parts[4:])
        else:
            self._send_file(hub, "/".join(parts[:2]), "/".join(parts[4:]))

    def _send_info(self, hub: FakeHub, model: str, rest: list[str]) -> None:
        if model in hub.failures:
            status, code = hub.failures[model]
            self._send(status, b"{}", {"X-Error-Code": code})
        elif model not in hub.models:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif rest not in ([], ["revision", "main"], ["revision", COMMIT]):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            siblings = [{"rfilename": name, "size": len(body)} for name, body in hub.models[model].items()]
            self._send(200, json.dumps({"id": model, "sha": COMMIT, "siblings": siblings}).encode(), {})

    def _send_file(self, hub: FakeHub, model: str, name: str) -> None:
        if hub.redirects_to:
            self._send(302, b"", {"Location": hub.redirects_to + self.path})
            return
        body = hub.models[model][name]
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        if hub.ignores_ranges:
            self._send(200, body, {})
        else:
            self._send(206, body[int(first) : int(last) + 1], {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
            self.server.hub.bytes_sent += len(body)  # type: ignore[attr-defined]
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


@contextmanager
def run_fake_hub() -> Iterator[FakeHub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = server.hub = FakeHub(url=f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
