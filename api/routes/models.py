"""Models as OpenAI's clients see them: base models, and the fine-tuned ones of the caller's team.

Names may hold slashes, raw or encoded, so the last part of the address is taken whole.
"""

from fastapi import APIRouter

from api.dependencies import Adapters, ModelName, Models, Reader, Writer
from api.openapi import failures
from api.requests import JsonRoute
from api.schemas.models import ModelDeletedOut, ModelList, ModelOut

router = APIRouter(prefix="/v1/models", tags=["Models"], route_class=JsonRoute)
FINE_TUNED = "ft:"
ALL_ADAPTERS = 10_000
"""OpenAI's client asks for one page only; a team with more adapters finds the older ones at /v1/adapters."""


@router.get("", summary="List models")
def list_models(caller: Reader, models: Models, adapters: Adapters) -> ModelList:
    """Base models first, then the fine-tuned ones, newest first; all in one answer."""
    base = [ModelOut.of_base(model) for model in models.list(caller)]
    tuned = [ModelOut.of_adapter(adapter) for adapter in adapters.list(caller, limit=ALL_ADAPTERS).items]
    return ModelList(object="list", data=base + tuned)


@router.get("/{model:path}", responses=failures(404), summary="Retrieve a model")
def get_model(model: ModelName, caller: Reader, models: Models, adapters: Adapters) -> ModelOut:
    if model.startswith(FINE_TUNED):
        return ModelOut.of_adapter(adapters.get(caller, model))
    return ModelOut.of_base(models.get(caller, model))


@router.delete("/{model:path}", responses=failures(404, 409), summary="Delete a model")
def delete_model(model: ModelName, caller: Writer, models: Models, adapters: Adapters) -> ModelDeletedOut:
    """A fine-tuned model goes out of sight with its adapter. A base model is forgotten, by admins only, unless a job
    that has not ended uses it."""
    if model.startswith(FINE_TUNED):
        adapters.delete(caller, model)
    else:
        models.delete(caller, model)
    return ModelDeletedOut(id=model, object="model", deleted=True)
