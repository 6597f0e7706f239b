"""The pool's devices, what holds them, what was said of nodes, and what is lacking, as the API answers with them."""

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
    """A node that is cordoned or drained; moments are None for what was not said. `automatic` when the pool itself did
    it because nothing ran there; then it comes back when a job needs it."""

    id: str
    cordoned_at: int | None
    drain_requested_at: int | None
    automatic: bool = False


class Lack(Result):
    """Whole devices that waiting jobs would need beyond those that there are, so many `together` on one node."""

    device_type: str
    usable_bytes: int
    devices: int
    together: int
    jobs: int


class PoolRules(Result):
    """`turns_hours` are device-hours after which a job that borrows has had its turn, empty without turns."""

    placement: str
    preemption: bool
    borrower_fairness: bool
    turns_hours: tuple[float, ...]
    turns_spare_larger: bool = False
    moves: bool = False
    pin_after_seconds: int
    least_run_seconds: int


class Pool(Result):
    """`rules` is None from a server that does not tell them."""

    rules: PoolRules | None = None
    devices: tuple[Device, ...]
    nodes: tuple[Node, ...] = ()
    lacks: tuple[Lack, ...] = ()


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
