"""Published adapters: listed, downloaded file by file or as one archive, deleted."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from api.dependencies import Adapters, After, Id, PageLimit, Reader, Writer
from api.downloads import Download
from api.openapi import binary, failures
from api.requests import JsonRoute
from api.schemas.adapters import AdapterDeletedOut, AdapterDownload, AdapterDownloads, AdapterOut
from api.schemas.wire import ListPage, list_page

router = APIRouter(prefix="/v1/adapters", tags=["Adapters"], route_class=JsonRoute)


@router.get("", responses=failures(400), summary="List adapters")
def list_adapters(
    caller: Reader, adapters: Adapters, after: After = None, limit: PageLimit = 20
) -> ListPage[AdapterOut]:
    """Newest first."""
    page = adapters.list(caller, limit=limit, after=after)
    return list_page([AdapterOut.of(adapter) for adapter in page.items], has_more=page.has_more)


@router.get("/{adapter_id}", responses=failures(404), summary="Retrieve an adapter")
def get_adapter(adapter_id: Id, caller: Reader, adapters: Adapters) -> AdapterOut:
    return AdapterOut.of(adapters.get(caller, adapter_id))


@router.get("/{adapter_id}/manifest", responses=failures(404), summary="Show an adapter's manifest")
def get_adapter_manifest(adapter_id: Id, caller: Reader, adapters: Adapters) -> dict[str, Any]:
    """Base model and revision, hashes of data and template, the whole spec and plan, checksums, final metrics."""
    return adapters.manifest(caller, adapter_id)


@router.get("/{adapter_id}/files", responses=failures(404), summary="List an adapter's files with download addresses")
def list_adapter_files(adapter_id: Id, caller: Reader, adapters: Adapters) -> AdapterDownloads:
    """The addresses lead straight to the object store, need no key, and expire."""
    downloads = [AdapterDownload.of(found) for found in adapters.download_urls(caller, adapter_id)]
    return AdapterDownloads(
        object="list", data=downloads, has_more=False, expires_in_seconds=adapters.presigned_seconds
    )


@router.get(
    "/{adapter_id}/tar",
    responses=failures(404) | binary("All files and the manifest.", "application/x-tar"),
    response_class=Response,
    summary="Download an adapter as one archive",
)
def get_adapter_tar(adapter_id: Id, caller: Reader, adapters: Adapters) -> Response:
    """An uncompressed tar. It breaks off when a file is not what was verified, so a whole one is right."""
    tar = adapters.open_tar(caller, adapter_id)
    name = f"{tar.adapter.adapter_id}.tar"
    return Download(tar.chunks, filename=name, size_bytes=tar.size_bytes, media_type="application/x-tar")


@router.delete("/{adapter_id}", responses=failures(404, 409), summary="Delete an adapter")
def delete_adapter(adapter_id: Id, caller: Writer, adapters: Adapters) -> AdapterDeletedOut:
    """Out of sight at once; its bytes are removed later."""
    adapters.delete(caller, adapter_id)
    return AdapterDeletedOut(id=adapter_id, object="adapter", deleted=True)
