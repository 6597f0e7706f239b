"""The documentation, in the dashboard's layout; readable without a key, because it tells nothing of the pool."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from api.dashboard.forms import PageRoute
from api.dashboard.rendering import render
from api.documentation.library import MOST_HITS, Library
from api.documentation.sources import ADDRESS
from orchestrator.domain.errors import NotFoundError

router = APIRouter(prefix=ADDRESS, route_class=PageRoute)


@router.get("")
def show_index(request: Request, q: Annotated[str, Query(max_length=200)] = "") -> Response:
    """The first page; with `q`, the sections in which all of its words are."""
    if q.strip():
        library: Library = request.app.state.library
        return _show(request, {"title": f"Search: {q}", "query": q, "hits": library.search(q), "most_hits": MOST_HITS})
    return _show_page(request, ADDRESS)


@router.get("/{name:path}")
def show_page(request: Request, name: str) -> Response:
    return _show_page(request, f"{ADDRESS}/{name}")


def _show_page(request: Request, address: str) -> Response:
    library: Library = request.app.state.library
    document = library.find(address)
    if document is None:
        raise NotFoundError(f"No such page: {address}")
    addresses = [entry.address for entry in library.contents]
    place = addresses.index(address) if address in addresses else None
    beside = {
        "previous": library.contents[place - 1] if place else None,
        "following": library.contents[place + 1] if place is not None and place + 1 < len(addresses) else None,
    }
    return _show(request, {"title": document.title, "document": document, "address": address, **beside})


def _show(request: Request, values: dict[str, Any]) -> Response:
    page = {"query": "", "hits": None, "document": None, "address": "", "previous": None, "following": None}
    return render(request, "docs.html", {**page, "contents": request.app.state.library.contents, **values})
