"""Who looks at the dashboard: a cookie that carries the API key, and a token that proves that a form is ours.

The cookie is HttpOnly, so no script reads it, SameSite=Lax, and ends with the browser; nothing about it is stored here,
so revoking the key ends it everywhere (see decision 0015). With it the API may be read, never changed: what changes
something is a form of the dashboard, with a token that only a page of this server can know. The token is a MAC under
the key, masked anew for each page, so that compressed pages tell nothing about it.
"""

import hashlib
import hmac
import secrets

from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import Response

from orchestrator.domain.errors import ForbiddenError

COOKIE = "tunepool_session"
THEME_COOKIE = "tunepool_theme"
THEMES = ("auto", "light", "dark")
THEME_SECONDS = 365 * 86_400
CSRF_FIELD = "csrf"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_PURPOSE = b"tunepool dashboard form"
_OWN_SITE = frozenset({"same-origin", "none"})


def read_cookie(headers: Headers, name: str = COOKIE) -> str | None:
    value = cookie_parser(headers.get("cookie", "")).get(name)
    return value or None


def make_token(key: str) -> str:
    """A token for one page: 32 random bytes, and the MAC under the key XORed with them."""
    mask = secrets.token_bytes(32)
    return (mask + _xor(mask, _mac(key))).hex()


def is_token(key: str, token: str) -> bool:
    try:
        given = bytes.fromhex(token)
    except ValueError:
        return False
    return len(given) == 64 and hmac.compare_digest(_xor(given[:32], given[32:]), _mac(key))


def _mac(key: str) -> bytes:
    return hmac.new(key.encode(), _PURPOSE, hashlib.sha256).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def require_own_site(headers: Headers) -> None:
    """Raises ForbiddenError for what a browser sends on behalf of another site. Other clients send no such header."""
    if headers.get("sec-fetch-site", "same-origin") not in _OWN_SITE:
        raise ForbiddenError("this form was sent from another site", code="cross_site")


def require_token(request: Request, token: str | None) -> None:
    """Raises ForbiddenError unless the form is ours. A caller with an Authorization header has no cookie to abuse."""
    key = request.scope["state"].get("session_key")
    if key is not None and not is_token(key, token or ""):
        raise ForbiddenError("this form has expired; reload the page and send it again", code="bad_csrf_token")


def open_session(response: Response, key: str, *, secure: bool) -> None:
    response.set_cookie(COOKIE, key, httponly=True, secure=secure, samesite="lax", path="/")


def close_session(response: Response) -> None:
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="lax")


def is_https(request: Request) -> bool:
    """Also behind a proxy that ends TLS and says so."""
    return request.url.scheme == "https" or request.headers.get("x-forwarded-proto", "") == "https"


def read_theme(request: Request) -> str:
    theme = request.cookies.get(THEME_COOKIE, "auto")
    return theme if theme in THEMES else "auto"
