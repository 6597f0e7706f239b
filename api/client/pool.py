"""What a job runs on and from: devices, prices, base models, estimates."""

from typing import Unpack

from api.client.devices import Node, Pool, PoolHistory
from api.client.jobs import EstimateFields
from api.client.results import Accuracy, BaseModelInfo, Deleted, Estimate, Model, Price
from api.client.tail import read_pages
from api.client.transport import Transport

POOL = "/v1/pool"
PRICES = "/v1/pool/prices"
BASE_MODELS = "/v1/base_models"
MODELS = "/v1/models"
ESTIMATES = "/v1/estimates"


class PoolView:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self) -> Pool:
        return Pool.model_validate(self._transport.get(POOL))

    def history(self, *, hours: int = 24) -> PoolHistory:
        """What held the devices in the last hours (1 to 168)."""
        return PoolHistory.model_validate(self._transport.get(f"{POOL}/history", {"hours": hours}))

    def set_node(self, node_name: str, wish: str) -> Node:
        """'cordon', 'drain' or 'uncordon' a node. Admins only."""
        return Node.model_validate(self._transport.post(f"{POOL}/nodes/{node_name}/{wish}"))


class Prices:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> tuple[Price, ...]:
        """The price book: every version, the newest of each device type first."""
        return tuple(read_pages(self._transport, PRICES, Price, {}))

    def create(self, *, device_type: str, usd_per_hour: str) -> Price:
        """Set a price for attempts that start from now on; decimal dollars for the whole device. Admins only."""
        body = {"device_type": device_type, "usd_per_hour": usd_per_hour}
        return Price.model_validate(self._transport.post(PRICES, body))


class BaseModels:
    """The pool's registry of base models."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> tuple[BaseModelInfo, ...]:
        return tuple(read_pages(self._transport, BASE_MODELS, BaseModelInfo, {}))

    def create(self, *, name: str, location: str) -> BaseModelInfo:
        """Register a folder on the nodes, an s3:// prefix, or a hub id under a name. Admins only."""
        return BaseModelInfo.model_validate(self._transport.post(BASE_MODELS, {"name": name, "location": location}))

    def delete(self, name: str) -> Deleted:
        return Deleted.model_validate(self._transport.delete(f"{BASE_MODELS}/{name}"))


class Models:
    """What a job may name as its model, as OpenAI's list shows it: base models and this team's adapters."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> tuple[Model, ...]:
        return tuple(Model.model_validate(item) for item in self._transport.get(MODELS)["data"])

    def get(self, model_id: str) -> Model:
        return Model.model_validate(self._transport.get(f"{MODELS}/{model_id}"))

    def delete(self, model_id: str) -> Deleted:
        return Deleted.model_validate(self._transport.delete(f"{MODELS}/{model_id}"))


class Estimates:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, **fields: Unpack[EstimateFields]) -> Estimate:
        """What a job with these fields would take, without making it."""
        return Estimate.model_validate(self._transport.post(ESTIMATES, fields))

    def accuracy(self) -> Accuracy:
        """How far estimates were off over the newest attempts of the whole pool."""
        return Accuracy.model_validate(self._transport.get(f"{ESTIMATES}/accuracy"))
