"""Who asks: from an API key to a Caller, for every address that is not public.

It stands before the router, so an address is closed until it is named here; a test walks every route. The key comes in
the Authorization header, or in the dashboard's cookie, with which the API can be read and not changed.
"""

from contextlib import suppress
from typing import Protocol
from urllib.parse import quote

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.dashboard import session
from api.errors import error_response
from orchestrator.domain.errors import ForbiddenError, TunepoolError, UnauthenticatedError
from orchestrator.domain.teams import Caller, Role

PUBLIC_PATHS = frozenset({"/health", "/ready", "/login", "/openapi.json", "/docs", "/theme"})
PUBLIC_FOLDERS = ("/static/", "/docs/")
"""The dashboard's stylesheet and scripts, and the documentation: the same for everybody."""
API_FOLDER = "/v1/"
MAX_KEY_CHARACTERS = 512


class Keys(Protocol):
    def recall(self, secret: str) -> Caller | None:
        """The caller when it is known without waiting."""
        ...

    def authenticate(self, secret: str) -> Caller:
        """May block, so it runs in a thread. Raises UnauthenticatedError."""
        ...


class Authentication:
    """Puts the Caller into the request's state, or answers 401."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and is_public(scope["path"])):
            if scope["type"] == "http" and is_layout(scope["path"]):
                await self._greet(scope)
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        by_session = None if "authorization" in headers else session.read_cookie(headers)
        try:
            caller = await self._identify(by_session or read_secret(headers.get("authorization")))
            check_organization(caller, headers)
            if by_session is not None:
                check_session(scope)
        except TunepoolError as error:
            await refuse(error, scope, headers)(scope, receive, send)
            return
        scope["state"] |= {"caller": caller, "session_key": by_session}
        await self.app(scope, receive, send)

    async def _identify(self, secret: str) -> Caller:
        caller = self.keys.recall(secret)
        return caller if caller is not None else await to_thread.run_sync(self.keys.authenticate, secret)

    async def _greet(self, scope: Scope) -> None:
        """Whoever is logged in is known on public pages too; a session that has ended is a stranger's."""
        secret = session.read_cookie(Headers(scope=scope))
        if secret is None:
            return
        with suppress(TunepoolError):
            scope["state"] |= {"caller": await self._identify(secret), "session_key": secret}


def is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or (path.startswith(PUBLIC_FOLDERS) and ".." not in path)


def is_layout(path: str) -> bool:
    """Whether a public path is of the dashboard's own layout, which shows who is logged in."""
    return path in {"/docs", "/theme"} or path.startswith("/docs/")


def check_session(scope: Scope) -> None:
    """A cookie rides along on whatever a browser sends, so it opens the API for reading only. The dashboard's own forms
    carry a token, which their routes check."""
    if scope["method"] not in session.SAFE_METHODS and scope["path"].startswith(API_FOLDER):
        raise ForbiddenError(
            "a browser's session reads the API; to change something send the key", code="session_reads"
        )


def refuse(error: TunepoolError, scope: Scope, headers: Headers) -> Response:
    """The envelope; a person at a browser is shown where to log in instead."""
    if isinstance(error, UnauthenticatedError) and not scope["path"].startswith(API_FOLDER):
        target = "/login" if scope["path"] == "/" else f"/login?next={quote(scope['path'])}"
        if "hx-request" in headers:
            answer = error_response(error, request_id=scope["state"]["request_id"])
            answer.headers["hx-redirect"] = "/login"
            return answer
        if "text/html" in headers.get("accept", ""):
            return RedirectResponse(target, status_code=303)
    return error_response(error, request_id=scope["state"]["request_id"])


def read_secret(header: str | None) -> str:
    """The key in an Authorization header. Raises UnauthenticatedError, saying what a right one looks like."""
    if header is None:
        raise UnauthenticatedError(
            "no API key was given; send it as 'Authorization: Bearer <key>'", code="missing_api_key"
        )
    scheme, _, secret = header.partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret or len(secret) > MAX_KEY_CHARACTERS:
        raise UnauthenticatedError("the Authorization header must be 'Bearer <key>'")
    return secret


def check_organization(caller: Caller, headers: Headers) -> None:
    """OpenAI's client can name an organization and a project; both are teams here, and must be the key's own."""
    for header, variable in (("openai-organization", "OPENAI_ORG_ID"), ("openai-project", "OPENAI_PROJECT_ID")):
        asked = headers.get(header)
        if asked and caller.role is not Role.ADMIN and asked not in {caller.team_id, caller.team_name}:
            raise ForbiddenError(
                f"this key belongs to team {caller.team_name!r}, not to {asked!r} as the {header} header says; "
                f"unset {variable} or give the team's name",
                code="mismatched_organization",
            )
