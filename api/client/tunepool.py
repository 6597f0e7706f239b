"""The client: one object with a namespace per noun of the API."""

from types import TracebackType
from typing import Self

from api.client.adapters import Adapters
from api.client.arrays import Arrays
from api.client.files import Files
from api.client.jobs import Jobs
from api.client.pool import BaseModels, Estimates, Models, PoolView, Prices
from api.client.simulation import SimulationData
from api.client.teams import Keys, Teams
from api.client.transport import Transport
from api.client.usage import Usage


class Tunepool:
    """A pool, seen through its API. Thread-safe; close it, or use it as a context manager.

    `base_url` and `api_key` default to TUNEPOOL_URL and TUNEPOOL_API_KEY; raises NotConfiguredError without them.
    """

    def __init__(self, base_url: str | None = None, api_key: str | None = None, *, max_retries: int = 5) -> None:
        self.transport = Transport(base_url, api_key, max_retries=max_retries)
        self.files = Files(self.transport)
        self.jobs = Jobs(self.transport)
        self.arrays = Arrays(self.transport)
        self.adapters = Adapters(self.transport)
        self.models = Models(self.transport)
        self.base_models = BaseModels(self.transport)
        self.pool = PoolView(self.transport)
        self.prices = Prices(self.transport)
        self.estimates = Estimates(self.transport)
        self.simulation = SimulationData(self.transport)
        self.keys = Keys(self.transport)
        self.teams = Teams(self.transport)
        self.usage = Usage(self.transport)

    @property
    def base_url(self) -> str:
        return self.transport.base_url

    def close(self) -> None:
        self.transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
