"""The pool on both engines: devices, prices, base models, and who leads."""

from dataclasses import replace
from datetime import timedelta

import pytest

from orchestrator.domain.errors import ConflictError, NotFoundError
from orchestrator.domain.models import LinearGroup, ModelFacts, ModelFile, ModelSourceKind
from orchestrator.domain.pool import BaseModel, Price
from orchestrator.runtime.launcher import DeclaredDevice
from orchestrator.store import devices, leader, models, prices
from orchestrator.store.session import ReadTx, Store
from tests.support import rows
from tests.support.threads import run_together

FACTS = ModelFacts(
    model_type="llama",
    architecture="LlamaForCausalLM",
    hidden_size=64,
    intermediate_size=256,
    num_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    vocab_size=1000,
    max_context_tokens=2048,
    total_parameters=100_000,
    tied_embeddings=True,
    linear_groups=(LinearGroup(name="q_proj", out_features=64, in_features=64, count=2),),
    has_chat_template=True,
)


def declare(index: int, *, total_bytes: int = 24 * rows.GIB) -> DeclaredDevice:
    return DeclaredDevice(
        device_id=f"node-1/cuda:{index}",
        node_name="node-1",
        device_type="nvidia-rtx-4090",
        kind="cuda",
        index=index,
        total_bytes=total_bytes,
    )


def test_survey_replaces_what_is_online(store: Store) -> None:
    with store.write() as tx:
        devices.record_devices(tx, [declare(0), declare(1)])
        first, second = devices.list_devices(tx)
        assert (first.device_id, first.usable_bytes, first.online) == ("node-1/cuda:0", 24 * rows.GIB, True)
        assert (second.index, second.kind, second.seen_at) == (1, "cuda", tx.now())
    with store.write() as tx:
        devices.record_devices(tx, [declare(1, total_bytes=5), declare(2)])
        online = {device.device_id: device.online for device in devices.list_devices(tx)}
        assert online == {"node-1/cuda:0": False, "node-1/cuda:1": True, "node-1/cuda:2": True}
        gone, changed, _ = devices.list_devices(tx)
        assert (gone, changed.usable_bytes) == (replace(first, online=False), 5)
        devices.record_devices(tx, [])
        assert not any(device.online for device in devices.list_devices(tx))


def test_newest_price_holds_and_old_ones_stay(store: Store) -> None:
    with store.write() as tx:
        assert prices.find_price(tx, "cpu") is None
        first = prices.insert_price(tx, "cpu", 50_000)
        second = prices.insert_price(tx, "cpu", 2**40)
        other = prices.insert_price(tx, "nvidia-rtx-4090", 0)
        assert (first.version, second.version, other.version) == (1, 2, 1)
        assert prices.find_price(tx, "cpu") == second
        assert prices.list_prices(tx) == [second, first, other]


def test_prices_set_at_once_never_share_a_version(store: Store) -> None:
    def insert() -> Price:
        with store.write() as tx:
            return prices.insert_price(tx, "cpu", 7)

    results = run_together([insert] * 6)
    assert all(isinstance(result, Price | ConflictError) for result in results)
    versions = [result.version for result in results if isinstance(result, Price)]
    assert sorted(versions) == list(range(1, len(versions) + 1))
    assert versions


def make_model(tx: ReadTx) -> BaseModel:
    return BaseModel(
        name="smol",
        source=ModelSourceKind.PATH,
        location="/models/smol",
        revision="abc",
        facts=FACTS,
        files=(ModelFile(path="config.json", size_bytes=12),),
        created_at=tx.now(),
    )


def test_models_are_registered_replaced_and_deleted(store: Store) -> None:
    with store.write() as tx:
        model = models.upsert_model(tx, make_model(tx))
        assert models.get_model(tx, "smol") == model == make_model(tx)
    with store.write() as tx:
        moved = models.upsert_model(tx, replace(make_model(tx), source=ModelSourceKind.S3, location="s3://b/p"))
        assert moved == replace(model, source=ModelSourceKind.S3, location="s3://b/p")
        assert models.list_models(tx) == [moved]
        models.delete_model(tx, "smol")
        assert models.find_model(tx, "smol") is None
        for act in (models.get_model, models.delete_model):
            with pytest.raises(NotFoundError):
                act(tx, "smol")


def test_one_of_many_leads(store: Store) -> None:
    def claim(owner: str) -> bool:
        with store.write() as tx:
            return leader.claim_leadership(tx, owner=owner, lease_seconds=60)

    owners = [f"control-{n}" for n in range(8)]
    results = run_together([lambda o=o: claim(o) for o in owners])
    assert sorted(map(bool, results)) == [False] * 7 + [True]
    winner = owners[results.index(True)]
    assert claim(winner)
    assert [claim(owner) for owner in owners] == [owner == winner for owner in owners]
    with store.read() as tx:
        found = leader.find_leader(tx)
        assert found is not None
        assert found.owner == winner
        assert timedelta(seconds=50) < found.expires_at - tx.now() <= timedelta(seconds=60)


def test_lease_passes_on_when_it_runs_out_or_is_given_back(store: Store) -> None:
    with store.write() as tx:
        assert leader.find_leader(tx) is None
        assert leader.claim_leadership(tx, owner="one", lease_seconds=60)
        leader.resign_leadership(tx, "two")
        assert not leader.claim_leadership(tx, owner="two", lease_seconds=60)
        leader.resign_leadership(tx, "one")
        assert leader.claim_leadership(tx, owner="two", lease_seconds=0)
    with store.write() as tx:
        assert leader.claim_leadership(tx, owner="one", lease_seconds=60)


def test_scheduler_lock_lets_one_placement_run_at_a_time(store: Store) -> None:
    def place(index: int) -> None:
        with store.write() as tx:
            tx.lock_scheduler()
            found = devices.list_devices(tx)
            devices.record_devices(tx, [declare(n) for n in range(len(found) + 1)])

    assert run_together([lambda n=n: place(n) for n in range(8)]) == [None] * 8
    with store.read() as tx:
        assert len(devices.list_devices(tx)) == 8
