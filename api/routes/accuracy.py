"""How far estimates were off lately."""

from fastapi import APIRouter

from api.dependencies import Accuracy, Reader
from api.requests import JsonRoute
from api.schemas.accuracy import AccuracyOut

router = APIRouter(prefix="/v1/estimates", tags=["Estimates"], route_class=JsonRoute)


@router.get("/accuracy", summary="Show how right estimates were")
def get_accuracy(caller: Reader, accuracy: Accuracy) -> AccuracyOut:
    """What was measured against what was predicted, over the newest attempts of the whole pool."""
    return AccuracyOut.of(accuracy.read(caller))
