"""API keys: made by admins, shown once, revoked at once."""

from fastapi import APIRouter

from api.dependencies import Admin, Id, Keys, Reader
from api.openapi import failures
from api.requests import JsonRoute
from api.schemas.teams import KeyCreate, KeyDeletedOut, KeyOut, NewKeyOut
from api.schemas.wire import ListPage, list_page

router = APIRouter(prefix="/v1/keys", tags=["Teams"], route_class=JsonRoute)


@router.post("", responses=failures(400, 413), summary="Create an API key")
def create_key(body: KeyCreate, caller: Admin, keys: Keys) -> NewKeyOut:
    """Admins only. `secret` is in this answer and nowhere else, so a repeat makes another key: the first one's secret
    was lost with its answer, and nobody can use it."""
    new = keys.create(
        caller, name=body.name, role=body.role, team=body.team, expires_in_seconds=body.expires_in_seconds
    )
    return NewKeyOut.of_new(new.key, new.secret)


@router.get("", summary="List API keys")
def list_keys(caller: Reader, keys: Keys) -> ListPage[KeyOut]:
    """All keys for an admin, those of one's own team for others; never their secrets."""
    return list_page([KeyOut.of(key) for key in keys.list(caller)], has_more=False)


@router.delete("/{key_id}", responses=failures(404, 409), summary="Revoke an API key")
def revoke_key(key_id: Id, caller: Admin, keys: Keys) -> KeyDeletedOut:
    """Admins only. It stays in the list, revoked; safe to repeat."""
    keys.revoke(caller, key_id)
    return KeyDeletedOut(id=key_id, object="api_key", deleted=True)
