"""Base models: what jobs can start from, where each lies and what is known of it."""

from fastapi import APIRouter, Request, Response

from api.dashboard.forms import Form, PageRoute, read_field
from api.dashboard.rendering import go_to, render
from api.dependencies import Adapters, Admin, ModelName, Models, Reader
from api.schemas.adapters import AdapterOut
from api.schemas.models import BaseModelOut

router = APIRouter(prefix="/models", route_class=PageRoute)
ADAPTERS_SHOWN = 50


@router.get("")
def show_models(request: Request, caller: Reader, models: Models, adapters: Adapters) -> Response:
    found = adapters.list(caller, limit=ADAPTERS_SHOWN)
    values = {
        "models": [BaseModelOut.of(model) for model in models.list(caller)],
        "adapters": [AdapterOut.of(adapter) for adapter in found.items],
        "more_adapters": found.has_more,
    }
    return render(request, "models.html", values)


@router.post("")
def add_model(request: Request, caller: Admin, form: Form, models: Models) -> Response:
    models.add(caller, read_field(form, "name"), read_field(form, "location"))
    return go_to(request, "/models")


@router.post("/{model:path}/delete")
def delete_model(request: Request, model: ModelName, caller: Admin, form: Form, models: Models) -> Response:
    models.delete(caller, model)
    return go_to(request, "/models")
