"""What was used and what it cost."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

import httpx2

from api.client.errors import ConnectionFailedError
from api.client.results import Result
from api.client.transport import Transport

USAGE = "/v1/usage"


class UsageFigures(Result):
    """Device seconds are of whole devices; `lost` is billed to nobody. Idle time is told to admins, and only by device,
    device type and day."""

    billed_usd_micros: int
    billed_usd: str
    lost_usd_micros: int
    lost_usd: str
    useful_device_seconds: float
    failed_device_seconds: float
    preempted_device_seconds: float
    idle_device_seconds: float | None = None
    entries: int


class UsageRow(UsageFigures):
    """One group; what was not asked for is None. `user` is the id of an API key, `user_name` its name."""

    team: str | None = None
    user: str | None = None
    user_name: str | None = None
    device: str | None = None
    device_type: str | None = None
    model: str | None = None
    day: str | None = None


class UsageSums(Result):
    group_by: tuple[str, ...]
    data: tuple[UsageRow, ...]
    total: UsageFigures


class Usage:
    """`since` and `until` are dates such as 2026-11-01, or moments with their offset."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(
        self, *, group_by: Sequence[str] = ("team",), since: str | None = None, until: str | None = None
    ) -> UsageSums:
        """Sums over the ledger, by any of team, user, device, device_type, model and day."""
        params = {"group_by": ",".join(group_by), "since": since, "until": until}
        return UsageSums.model_validate(self._transport.get(USAGE, params))

    def download(
        self,
        path: Path,
        *,
        kind: str = "focus",
        group_by: Sequence[str] = ("team",),
        since: str | None = None,
        until: str | None = None,
    ) -> None:
        """Write a CSV file: `csv` of the groups, or `focus` of every ledger entry as FOCUS 1.2.

        The file is there once it is complete; what was there before stays until then. Raises ConnectionFailedError when
        the answer broke off.
        """
        params = {"format": kind, "group_by": ",".join(group_by), "since": since, "until": until}
        query = urlencode({name: value for name, value in params.items() if value is not None})
        response = self._transport.stream_bytes(f"{USAGE}?{query}")
        part = path.with_name(f".{path.name}.part")
        try:
            with part.open("wb") as target:
                for chunk in response.iter_bytes():
                    target.write(chunk)
            part.replace(path)
        except httpx2.TransportError as error:
            raise ConnectionFailedError(f"the answer broke off: {error}") from error
        finally:
            response.close()
            part.unlink(missing_ok=True)
