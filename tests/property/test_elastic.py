"""What an elastic pool asks for and which nodes it lets rest: laws, on pools drawn at random."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.elastic import ElasticPool, choose_done_resting, choose_idle_nodes, choose_request
from orchestrator.domain.pool import Device, Node
from orchestrator.domain.scheduling.demand import Lack

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
IDLE_AFTER = timedelta(minutes=10)
SIZES = {"l4": 22, "h100": 79}


def _device(node: str, index: int, device_type: str, *, online: bool) -> Device:
    return Device(
        device_id=f"{node}/cuda:{index}",
        node_name=node,
        device_type=device_type,
        kind="cuda",
        index=index,
        usable_bytes=SIZES[device_type],
        online=online,
        seen_at=NOW,
    )


@st.composite
def pools(draw: st.DrawFn) -> ElasticPool:
    """Up to four nodes of one to four equal devices each, and lacks of kinds that the pool has had."""
    devices: list[Device] = []
    nodes: dict[str, Node] = {}
    for number in range(draw(st.integers(1, 4))):
        name, device_type, online = f"n{number}", draw(st.sampled_from(sorted(SIZES))), draw(st.booleans())
        devices += [_device(name, i, device_type, online=online) for i in range(draw(st.integers(1, 4)))]
        if draw(st.booleans()):
            at = st.sampled_from([None, NOW - timedelta(minutes=5), NOW - timedelta(hours=1)])
            automatic, cordoned_at = draw(st.booleans()), draw(at)
            nodes[name] = Node(
                node_name=name,
                cordoned_at=cordoned_at,
                drain_requested_at=None,
                automatic=automatic,
                changed_at=draw(at),
            )
    ids = st.sets(st.sampled_from([device.device_id for device in devices]), max_size=3)
    most = {kind: _most_on_a_node(devices, kind) for kind in {device.device_type for device in devices}}
    lacks = {
        (kind, together): Lack(
            device_type=kind, usable_bytes=SIZES[kind], together=together, groups=draw(st.integers(1, 9)), jobs=1
        )
        for kind in draw(st.sets(st.sampled_from(sorted(most))))
        for together in draw(st.sets(st.integers(1, most[kind]), min_size=1))
    }
    ages = {name: NOW - timedelta(minutes=draw(st.integers(0, 30))) for name in {d.node_name for d in devices}}
    return ElasticPool(
        devices=devices,
        nodes=nodes,
        used=frozenset(draw(ids)),
        claimed=frozenset(draw(ids)),
        quiet_since=ages,
        lacks=tuple(lacks[key] for key in sorted(lacks)),
        now=NOW,
    )


def _most_on_a_node(devices: Sequence[Device], device_type: str) -> int:
    of_type = [device.node_name for device in devices if device.device_type == device_type]
    return max(of_type.count(name) for name in of_type)


@settings(max_examples=150, deadline=None)
@given(pool=pools())
def test_a_node_rests_only_if_nothing_needs_it_and_nobody_said_anything_of_late(pool: ElasticPool) -> None:
    chosen = choose_idle_nodes(pool, IDLE_AFTER)
    for name in {device.node_name for device in pool.devices}:
        devices, node = pool.online_on(name), pool.nodes.get(name)
        is_quiet = pool.quiet_since[name] <= NOW - IDLE_AFTER and not (
            node is not None and node.changed_at is not None and node.changed_at > NOW - IDLE_AFTER
        )
        is_free = not any(device.device_id in pool.used | pool.claimed for device in devices)
        is_wanted = any(lack.device_type == device.device_type for lack in pool.lacks for device in devices)
        is_cordoned = node is not None and node.cordoned_at is not None
        assert (name in chosen) == bool(devices and is_quiet and is_free and not is_wanted and not is_cordoned)


@settings(max_examples=150, deadline=None)
@given(pool=pools())
def test_a_rest_is_over_when_the_node_left_or_is_in_use(pool: ElasticPool) -> None:
    chosen = choose_done_resting(pool)
    for name, node in pool.nodes.items():
        online = {device.device_id for device in pool.online_on(name)}
        assert (name in chosen) == (node.is_resting and (not online or bool(online & pool.used)))
    assert not set(chosen) & set(choose_idle_nodes(pool, IDLE_AFTER))


@settings(max_examples=150, deadline=None)
@given(pool=pools())
def test_what_is_asked_for_is_what_lacks_and_what_it_stands_beside(pool: ElasticPool) -> None:
    request = choose_request(pool)
    if not pool.lacks:
        assert request == ()
        return
    types = {lack.device_type for lack in pool.lacks}
    there = [d for d in pool.devices if d.online and (d.device_id in pool.used or d.device_type in types)]
    asked = sum(len(group.bytes_by_index) for group in request)
    assert asked == len(there) + sum(lack.devices for lack in pool.lacks)
    new = list(request[len(there) :])
    for lack in pool.lacks:
        groups, new = new[: lack.groups], new[lack.groups :]
        for group in groups:
            assert group.device_type == lack.device_type
            assert list(group.bytes_by_index.values()) == [lack.usable_bytes] * lack.together
        _assert_packed(groups, lack, _most_on_a_node(pool.devices, lack.device_type))


def _assert_packed(groups: Sequence[object], lack: Lack, most: int) -> None:
    """First fit of the groups into nodes of so many devices takes no more nodes than it has to."""
    nodes: list[set[int]] = []
    for group in groups:
        indexes = set(group.bytes_by_index)  # type: ignore[attr-defined]
        assert indexes <= set(range(most))
        home = next((taken for taken in nodes if not taken & indexes), None)
        if home is None:
            nodes.append(indexes)
        else:
            home |= indexes
    per_node = most // lack.together
    assert len(nodes) == -(-lack.groups // per_node)
