"""What a simulation of the pool starts from."""

from typing import Any

from api.client.transport import Transport


class SimulationData:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def history(self, *, days: int = 30) -> list[dict[str, Any]]:
        """The jobs that ran in these days, as rows for a simulation. Admins only."""
        found: list[dict[str, Any]] = self._transport.get("/v1/simulation/history", {"days": days})["data"]
        return found
