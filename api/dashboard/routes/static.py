"""The stylesheet, the scripts and the vendored libraries."""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from api.dashboard.assets import PREFIX, Assets
from orchestrator.domain.errors import NotFoundError

router = APIRouter(prefix=PREFIX.rstrip("/"))


@router.get("/{build}/{name:path}")
async def get_asset(
    request: Request, build: str, name: str, accept_encoding: Annotated[str, Header()] = ""
) -> Response:
    assets: Assets = request.app.state.assets
    asset = assets.find(build, name)
    if asset is None:
        raise NotFoundError(f"No such asset: {name}")
    headers = {"cache-control": "public, max-age=31536000, immutable", "vary": "Accept-Encoding"}
    if "gzip" not in accept_encoding:
        return Response(asset.body, media_type=asset.media_type, headers=headers)
    return Response(asset.compressed, media_type=asset.media_type, headers={**headers, "content-encoding": "gzip"})
