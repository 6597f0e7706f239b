"""The pool's devices and what holds them, as the API answers with them (see `results`)."""

from api.client.results import Result


class DeviceUse(Result):
    """Ids are None when the use is another team's."""

    attempt_id: str | None
    job_id: str | None
    reserved_bytes: int
    peak_device_bytes: int
    draining: bool


class DeviceClaim(Result):
    """A waiting job's `lock` on bytes until `at`, or its `pin` on a device expected to be free at `at`."""

    kind: str
    job_id: str | None
    team_id: str | None
    bytes: int
    at: int


class Device(Result):
    id: str
    node: str
    device_type: str
    kind: str
    usable_bytes: int
    reserved_bytes: int
    free_bytes: int
    online: bool
    uses: tuple[DeviceUse, ...] = ()
    claims: tuple[DeviceClaim, ...] = ()


class Node(Result):
    """A node that an admin has cordoned or drained; moments are None for what was not said."""

    id: str
    cordoned_at: int | None
    drain_requested_at: int | None


class Pool(Result):
    devices: tuple[Device, ...]
    nodes: tuple[Node, ...] = ()


class Hold(Result):
    """An attempt's hold on a device; another team's has no names. `until` is None while it lasts."""

    attempt_id: str | None
    job_id: str | None
    team_id: str | None
    team: str | None
    device_id: str
    device_type: str
    node: str
    reserved_bytes: int
    peak_device_bytes: int
    since: int
    until: int | None


class PoolHistory(Result):
    """Complete from `since` on."""

    since: int
    until: int
    data: tuple[Hold, ...]
