"""The pool's registry of base models, for its admins."""

from fastapi import APIRouter

from api.dependencies import Admin, ModelName, Models, Reader
from api.openapi import failures
from api.requests import JsonRoute
from api.schemas.models import BaseModelCreate, BaseModelDeletedOut, BaseModelOut
from api.schemas.wire import ListPage, list_page

router = APIRouter(prefix="/v1/base_models", tags=["Models"], route_class=JsonRoute)


@router.post("", responses=failures(400, 409, 413), summary="Register a base model")
def add_base_model(body: BaseModelCreate, caller: Admin, models: Models) -> BaseModelOut:
    """Admins only. The model is looked at, and its revision kept; a name that is known gets the new location."""
    return BaseModelOut.of(models.add(caller, body.name, body.location))


@router.get("", summary="List base models")
def list_base_models(caller: Reader, models: Models) -> ListPage[BaseModelOut]:
    return list_page([BaseModelOut.of(model) for model in models.list(caller)], has_more=False)


@router.get("/{model:path}", responses=failures(404), summary="Retrieve a base model")
def get_base_model(model: ModelName, caller: Reader, models: Models) -> BaseModelOut:
    return BaseModelOut.of(models.get(caller, model))


@router.delete("/{model:path}", responses=failures(404, 409), summary="Remove a base model")
def delete_base_model(model: ModelName, caller: Admin, models: Models) -> BaseModelDeletedOut:
    """Admins only. The name is forgotten, no bytes are deleted; 409 while a job that has not ended uses it."""
    models.delete(caller, model)
    return BaseModelDeletedOut(id=model, object="base_model", deleted=True)
