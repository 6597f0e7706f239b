"""How the dashboard's own routes behave: forms are bounded and proved to be ours, errors are pages for people.

A client that does not ask for HTML gets the API's envelope, so the same errors mean the same everywhere.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import FormData, UploadFile

from api.dashboard.rendering import render
from api.dashboard.session import CSRF_FIELD, SAFE_METHODS, require_own_site, require_token
from api.errors import find_status
from api.requests import read_bounded
from api.validation import explain_problems
from orchestrator.domain.errors import InvalidRequestError, TunepoolError, UnauthenticatedError

MAX_FIELDS = 1000
HTML = "text/html"
_URLENCODED = "application/x-www-form-urlencoded"


class PageRoute(APIRoute):
    """A route of the dashboard."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_page(request: Request) -> Response:
            try:
                if request.method not in SAFE_METHODS:
                    await _check_form(request)
                return await handle(request)
            except RequestValidationError as error:
                return show_error(request, explain_problems(error.errors(), body=None, model=None))
            except TunepoolError as error:
                return show_error(request, error)

        return handle_page


async def _check_form(request: Request) -> None:
    """A form of fields carries its token as a field; one with a file in its address, to be judged before the file."""
    require_own_site(request.headers)
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        request.scope["state"]["form"] = FormData()
        require_token(request, request.query_params.get(CSRF_FIELD))
        return
    form = await _read_form(request)
    request.scope["state"]["form"] = form
    require_token(request, str(form.get(CSRF_FIELD, "")))


async def _read_form(request: Request) -> FormData:
    body = await read_bounded(request, request.app.state.settings.max_body_bytes)
    if not body:
        return FormData()
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _URLENCODED:
        raise InvalidRequestError(f"the body must be sent as {_URLENCODED}", code="unsupported_content_type")
    try:
        pairs: list[tuple[str, str | UploadFile]] = list(
            parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
        )
    except ValueError:
        raise InvalidRequestError("the form cannot be read", code="invalid_form") from None
    if any("\0" in f"{name}{value}" for name, value in pairs):
        raise InvalidRequestError("the form holds a NUL character", code="invalid_form")
    return FormData(pairs)


async def _form(request: Request) -> FormData:
    form = request.scope["state"]["form"]
    assert isinstance(form, FormData)
    return form


Form = Annotated[FormData, Depends(_form)]
"""The fields of the form that was sent, checked to be ours."""


def read_field(form: FormData, name: str, *, default: str = "") -> str:
    """A field without the blanks around it."""
    value = form.get(name, default)
    return value.strip() if isinstance(value, str) else default


def show_error(request: Request, error: TunepoolError) -> Response:
    """The error as a page, or as a line for the page that is open. Raises it again for other clients."""
    fragment = "hx-request" in request.headers
    if not fragment and HTML not in request.headers.get("accept", ""):
        raise error
    status = find_status(error)
    inside = status >= 500 and not isinstance(error, UnauthenticatedError) and status != 503
    values = {
        "status": status,
        "message": "Something went wrong inside Tunepool." if inside else error.message,
        "code": "internal_error" if inside else error.code,
        "param": error.param,
    }
    return render(request, "parts/error.html" if fragment else "error.html", values, status=status)
