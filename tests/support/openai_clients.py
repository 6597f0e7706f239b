"""The real openai client, as its users have it, strict about every answer; the synchronous and the asynchronous one."""

import asyncio
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI

from tests.support.servers import ApiServer

TICKET = {"messages": [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On its way."}]}


def tickets(count: int = 12) -> bytes:
    """A data set of that many different rows."""
    rows = ({**TICKET, "messages": [*TICKET["messages"], {"role": "user", "content": f"{n}?"}]} for n in range(count))
    ended = ({"messages": [*row["messages"], {"role": "assistant", "content": "Yes."}]} for row in rows)
    return b"".join(json.dumps(row).encode() + b"\n" for row in ended)


class LostAnswers(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """A network that carries every request and loses the first `losses` answers to each POST."""

    def __init__(self, losses: int) -> None:
        self.losses = losses
        self.sent: list[httpx2.Request] = []
        self._sync, self._async = httpx2.HTTPTransport(verify=False), httpx2.AsyncHTTPTransport(verify=False)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = self._sync.handle_request(request)
        self._lose(request)
        return response

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._async.handle_async_request(request)
        self._lose(request)
        return response

    def _lose(self, request: httpx2.Request) -> None:
        self.sent.append(request)
        if request.method == "POST" and self.losses > 0:
            self.losses -= 1
            raise httpx2.ReadError("the connection broke before the answer", request=request)

    def close(self) -> None:
        self._sync.close()

    async def aclose(self) -> None:
        self._sync.close()
        await self._async.aclose()


class Client:
    """`openai` is either client; `do` waits where there is something to wait for, `collect` walks all pages."""

    def __init__(self, openai: OpenAI | AsyncOpenAI, runner: asyncio.Runner, transport: LostAnswers) -> None:
        self.openai: Any = openai
        self.transport = transport
        self._runner = runner

    def do(self, answer: Any) -> Any:
        return self._runner.run(_wait(answer)) if inspect.isawaitable(answer) else answer

    def collect(self, pages: Any) -> list[Any]:
        if hasattr(pages, "__aiter__"):
            return self._runner.run(_walk(pages))
        return list(pages)

    def upload(self, data: bytes | None = None, **options: Any) -> str:
        file = ("tickets.jsonl", tickets() if data is None else data)
        return str(self.do(self.openai.files.create(file=file, purpose="fine-tune", **options)).id)

    def submit(self, **fields: Any) -> Any:
        fields.setdefault("training_file", None) or fields.update(training_file=self.upload())
        return self.do(self.openai.fine_tuning.jobs.create(**{"model": "tiny", **fields}))


async def _wait(answer: Any) -> Any:
    return await answer


async def _walk(pages: Any) -> list[Any]:
    return [item async for item in pages]


@contextmanager
def open_client(
    server: ApiServer, kind: str, *, key: str | None = None, strict: bool = True, losses: int = 0
) -> Iterator[Client]:
    transport = LostAnswers(losses)
    options: dict[str, Any] = {
        "base_url": f"{server.url}/v1",
        "api_key": key or server.admin_key,
        "_strict_response_validation": strict,
    }
    with asyncio.Runner() as runner:
        if kind == "sync":
            with OpenAI(http_client=DefaultHttpxClient(transport=transport, trust_env=False), **options) as client:
                yield Client(client, runner, transport)
            return
        http = DefaultAsyncHttpxClient(transport=transport, trust_env=False)
        client = AsyncOpenAI(http_client=http, **options)
        try:
            yield Client(client, runner, transport)
        finally:
            runner.run(client.close())
