"""Into the dashboard with an API key, and out of it; and how it looks."""

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response

from api.dashboard import session
from api.dashboard.forms import Form, PageRoute, read_field
from api.dashboard.rendering import go_to, render
from api.dependencies import Keys
from orchestrator.domain.errors import InvalidRequestError, UnauthenticatedError

router = APIRouter(route_class=PageRoute)
HOME = "/"


def own_path(path: str) -> str:
    """A path of this server, so that no link leads elsewhere after the login."""
    is_own = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if is_own else HOME


@router.get("/login")
def show_login(request: Request, next_path: Annotated[str, Query(alias="next", max_length=512)] = HOME) -> Response:
    return render(request, "login.html", {"next_path": own_path(next_path), "problem": None})


@router.post("/login")
async def log_in(request: Request, form: Form, keys: Keys) -> Response:
    """The key is checked as the API checks it; then the browser keeps it in a cookie that no script can read."""
    key, next_path = read_field(form, "key"), own_path(read_field(form, "next", default=HOME))
    try:
        await to_thread.run_sync(keys.authenticate, key)
    except UnauthenticatedError as error:
        return render(request, "login.html", {"next_path": next_path, "problem": error.message}, status=401)
    answer = go_to(request, next_path)
    session.open_session(answer, key, secure=session.is_https(request))
    return answer


@router.post("/logout")
async def log_out(request: Request, form: Form) -> Response:
    answer = go_to(request, "/login")
    session.close_session(answer)
    return answer


@router.post("/theme")
async def choose_theme(request: Request, form: Form) -> Response:
    theme = read_field(form, "theme")
    if theme not in session.THEMES:
        raise InvalidRequestError(f"theme must be one of {', '.join(session.THEMES)}", param="theme")
    answer = go_to(request, own_path(read_field(form, "next", default=HOME)))
    answer.set_cookie(session.THEME_COOKIE, theme, max_age=session.THEME_SECONDS, samesite="lax", httponly=True)
    return answer
