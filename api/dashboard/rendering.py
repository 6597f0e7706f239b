"""From a template and values to an answer: escaped, compressed, and under a policy that lets no other code in."""

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from api.dashboard.assets import Assets
from api.dashboard.formats import FILTERS
from api.dashboard.session import make_token, read_theme
from api.dashboard.views.bars import lay_out
from api.version import VERSION
from orchestrator.domain.teams import Caller, Role

TEMPLATES = Path(__file__).parent / "templates"
CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "vary": "HX-Request, Cookie, Accept-Encoding",
}
SMALLEST_GZIP_BYTES = 1024
GZIP_LEVEL = 5


def build_environment(assets: Assets) -> Environment:
    """A name that a template uses and a page does not give is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(FILTERS)
    environment.globals.update(asset=assets.url, version=VERSION, lay_out=lay_out)
    return environment


def wants_fragment(request: Request) -> bool:
    """Whether a part of the page is asked for, to be put into the one that is open."""
    return "hx-request" in request.headers and "hx-history-restore-request" not in request.headers


def render(request: Request, template: str, values: Mapping[str, Any] | None = None, *, status: int = 200) -> Response:
    """A page, or a part of one; `values` are the template's own beside those that every page has."""
    state = request.scope["state"]
    caller: Caller | None = state.get("caller")
    key = state.get("session_key")
    environment: Environment = request.app.state.templates
    text = environment.get_template(template).render(
        {
            "user": caller,
            "can_write": caller is not None and caller.role is not Role.VIEWER,
            "is_admin": caller is not None and caller.role is Role.ADMIN,
            "csrf": make_token(key) if key else "",
            "theme": read_theme(request),
            "path": request.url.path,
            "request_id": state["request_id"],
            **(values or {}),
        }
    )
    return _compress(request, HTMLResponse(text, status_code=status, headers=HEADERS))


def _compress(request: Request, response: Response) -> Response:
    if len(response.body) < SMALLEST_GZIP_BYTES or "gzip" not in request.headers.get("accept-encoding", ""):
        return response
    response.body = gzip.compress(bytes(response.body), GZIP_LEVEL)
    response.headers["content-encoding"] = "gzip"
    response.headers["content-length"] = str(len(response.body))
    return response


def go_to(request: Request, path: str) -> Response:
    """To another page after a form; scripts are told by a header, because they would follow a redirect unseen."""
    if "hx-request" in request.headers:
        return Response(status_code=204, headers={"hx-redirect": path, **HEADERS})
    return RedirectResponse(path, status_code=303, headers=HEADERS)
