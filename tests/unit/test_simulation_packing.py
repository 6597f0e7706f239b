"""The packing experiment: its protocol, its rules, and that the rules are those of production."""

from pathlib import Path
from random import Random

import pytest

from orchestrator.domain.scheduling.facts import SharedDevice
from orchestrator.domain.scheduling.placement_options import Expected, Fragmentation
from orchestrator.domain.scheduling.placement_policies import POLICIES, get_policy
from orchestrator.domain.scheduling.rooms import Ask, Rooms
from orchestrator.simulation.openb import TaskShape, TraceNode, read_nodes, read_tasks
from orchestrator.simulation.packing import arrivals, pack
from orchestrator.simulation.packing_cluster import Cluster, Place
from orchestrator.simulation.packing_fragments import FragmentationScore, popular_classes
from orchestrator.simulation.packing_rules import POLICIES as NAMES
from orchestrator.simulation.packing_rules import make_rule
from tests.support.traces import write_nodes, write_pods

NODES = [TraceNode(name=f"node-{n}", cpu_milli=64_000, memory_mib=1 << 18, gpus=4, model="G2") for n in range(6)]


def _shapes(count: int, *, seed: int = 3, sizes: tuple[int, ...] = (230, 470, 650, 810, 1000)) -> list[TaskShape]:
    source = Random(seed)
    shapes = []
    for _ in range(count):
        gpus = source.choice([1, 1, 1, 1, 2])
        milli = 1000 if gpus > 1 else source.choice(sizes)
        shapes.append(TaskShape(cpu_milli=4000, memory_mib=1024, gpus=gpus, gpu_milli=milli))
    return shapes


def test_arrivals_are_the_shuffled_list_and_then_draws_from_it() -> None:
    shapes = _shapes(20)
    found = list(arrivals(shapes, capacity_milli=24_000, arrive=1.3, seed=42))
    assert found == list(arrivals(shapes, capacity_milli=24_000, arrive=1.3, seed=42))
    assert found != list(arrivals(shapes, capacity_milli=24_000, arrive=1.3, seed=43))
    asked = sum(shape.total_milli for shape in found)
    assert 1.3 * 24_000 - 2_000 < asked <= 1.3 * 24_000
    first = found[: len(shapes)]
    assert sorted(map(str, first)) == sorted(map(str, shapes))[: len(first)] or len(found) < len(shapes)


@pytest.mark.parametrize("policy", NAMES)
@pytest.mark.parametrize("gpu_only", [False, True])
def test_every_policy_packs_and_never_beyond_what_there_is(tmp_path: Path, policy: str, gpu_only: bool) -> None:
    nodes = read_nodes(write_nodes(tmp_path))
    shapes = [task.shape for task in read_tasks(write_pods(tmp_path))]
    packed = pack(nodes, shapes, policy=policy, seed=42, gpu_only=gpu_only)
    assert packed == pack(nodes, shapes, policy=policy, seed=42, gpu_only=gpu_only)
    assert set(packed.allocated) == {90, 100, 130}
    assert 0 < packed.allocated[90] <= packed.allocated[100] <= packed.allocated[130] <= 100
    assert packed.placed <= packed.arrived


def test_a_list_without_gpus_is_refused() -> None:
    with pytest.raises(ValueError, match="no task"):
        pack(NODES, [TaskShape(cpu_milli=1, memory_mib=1, gpus=0, gpu_milli=0)], policy="default", seed=1)


def test_spreading_packs_worst() -> None:
    shapes = _shapes(80)
    found = {name: pack(NODES, shapes, policy=name, seed=42).allocated[130] for name in ("default", "fgd", "spread")}
    assert found["spread"] < min(found["default"], found["fgd"])


@pytest.mark.parametrize("policy", ["default", "first_fit"])
def test_without_hosts_the_rules_place_as_production_does(policy: str) -> None:
    """Task by task, on the same devices, until nothing fits any more."""
    shapes = _shapes(120)
    cluster = Cluster(NODES, has_hosts=False)
    rule = make_rule(policy, cluster, shapes, seed=1)
    rooms, production = _rooms(), get_policy(policy)
    placed = 0
    for shape in shapes:
        place = rule.choose(shape)
        chosen = production.choose(rooms, _ask(shape))
        assert _ids(place) == (None if chosen is None else set(chosen))
        if place is not None:
            placed += 1
            cluster.take(place, shape)
            for device_id in chosen or ():
                rooms.take(device_id, shape.gpu_milli)
    assert 20 < placed < len(shapes)


def test_production_strands_as_little_as_the_paper_says() -> None:
    """The same score for every place: F after minus F before, on a node with something on each device."""
    shapes = _shapes(200)
    cluster = Cluster(NODES[:1], has_hosts=False)
    rooms = _rooms(NODES[:1])
    for slot, milli in enumerate((810, 470, 230)):
        cluster.take(Place(0, (slot,)), TaskShape(cpu_milli=0, memory_mib=0, gpus=1, gpu_milli=milli))
        rooms.take(f"node-0/{slot}", milli)
    classes = popular_classes(
        [TaskShape(cpu_milli=0, memory_mib=0, gpus=s.gpus, gpu_milli=s.gpu_milli) for s in shapes]
    )
    total = sum(classes.values())
    mix = [Expected(shape.gpu_milli, shape.gpus, count / total) for shape, count in classes.items()]
    score = FragmentationScore(cluster, shapes)
    for milli in (100, 230, 470, 650):
        shape = TaskShape(cpu_milli=0, memory_mib=0, gpus=1, gpu_milli=milli)
        (chosen,) = Fragmentation(mix).choose(rooms, _ask(shape)) or ("",)
        assert chosen == f"node-0/{score.slot(shape, 0)}"


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_of_production_obeys_the_walls(name: str) -> None:
    rooms, policy = _rooms(), get_policy(name)
    source, taken = Random(5), dict.fromkeys(rooms.devices, 0)
    for shape in _shapes(150, seed=source.randrange(100)):
        ask = _ask(shape)
        chosen = policy.choose(rooms, ask)
        fitting = {room.device_id for room in rooms.fitting(ask)}
        if chosen is None:
            by_node = [len([d for d in fitting if d.startswith(f"{node.name}/")]) for node in NODES]
            assert max(by_node) < shape.gpus
            continue
        assert len(set(chosen)) == shape.gpus
        assert set(chosen) <= fitting
        assert len({device_id.split("/")[0] for device_id in chosen}) == 1
        for device_id in chosen:
            taken[device_id] += shape.gpu_milli
            rooms.take(device_id, shape.gpu_milli)
    assert max(taken.values()) <= 1000


def _rooms(nodes: list[TraceNode] | None = None) -> Rooms:
    return Rooms(
        SharedDevice(
            device_id=f"{node.name}/{slot}",
            node_name=node.name,
            device_type=node.model,
            kind="cuda",
            usable_bytes=1000,
        )
        for node in nodes or NODES
        for slot in range(node.gpus)
    )


def _ask(shape: TaskShape) -> Ask:
    return Ask(bytes_by_kind={"cuda": shape.gpu_milli}, replicas=shape.gpus)


def _ids(place: Place | None) -> set[str] | None:
    return None if place is None else {f"node-{place.node}/{slot}" for slot in place.slots}
