"""What a handler can ask for by type: who calls and what they may do, a use case, a place in a list.

Permissions are types: a handler that takes a Writer cannot be reached by a viewer. These functions only look things up
in memory, so they are coroutines and cost no thread.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal

from fastapi import Depends, Path, Query, Request
from fastapi.security import HTTPBearer

from orchestrator.domain.errors import ForbiddenError
from orchestrator.domain.teams import Caller, Role
from orchestrator.services import costs, keys, pool, teams

_BEARER = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="An API key of a team: `Bearer <key>`.")
"""For the OpenAPI document only; `api.auth` has checked the key before a route is known."""


async def _reader(request: Request, _: Annotated[Any, Depends(_BEARER)]) -> Caller:
    caller = request.scope["state"]["caller"]
    assert isinstance(caller, Caller)
    return caller


Reader = Annotated[Caller, Depends(_reader)]
"""Any valid key."""


async def _writer(caller: Reader) -> Caller:
    if caller.role is Role.VIEWER:
        raise ForbiddenError("this key is a viewer's, which reads; a member's or an admin's is needed")
    return caller


Writer = Annotated[Caller, Depends(_writer)]
"""A member or an admin."""


async def _admin(caller: Reader) -> Caller:
    if caller.role is not Role.ADMIN:
        raise ForbiddenError(f"this key is a {caller.role.value}'s; an admin's is needed")
    return caller


Admin = Annotated[Caller, Depends(_admin)]


def _service(name: str) -> Callable[[Request], Coroutine[Any, Any, Any]]:
    async def find(request: Request) -> Any:
        return getattr(request.app.state.services, name)

    return find


Costs = Annotated[costs.Costs, Depends(_service("costs"))]
Keys = Annotated[keys.Keys, Depends(_service("keys"))]
Pool = Annotated[pool.Pool, Depends(_service("pool"))]
Teams = Annotated[teams.Teams, Depends(_service("teams"))]

After = Annotated[str | None, Query(max_length=128, description="The id of the last item of the page before.")]
Order = Annotated[Literal["asc", "desc"], Query(description="By the moment of creation.")]
PageLimit = Annotated[int, Query(ge=1, le=100, description="The most items that the page may have.")]
FileLimit = Annotated[int, Query(ge=1, le=10_000, description="The most items that the page may have.")]
LineLimit = Annotated[int, Query(ge=1, le=1000, description="The most items that the page may have.")]
Id = Annotated[str, Path(max_length=512)]
