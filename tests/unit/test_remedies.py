"""What a job that ran out of memory tries next: the order, the bound, what the user fixed, and the words."""

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.domain.placement import DeviceKind, DeviceRoom
from orchestrator.domain.remedies import MAX_REMEDIES, ShortJob, choose_remedy, describe_way_out
from orchestrator.domain.spec import JobShape
from tests.support.plans import make_base_model, make_plan

GIB = 2**30


def room(
    size_bytes: int, *, kind: DeviceKind = "cpu", device_type: str | None = None, online: bool = True
) -> DeviceRoom:
    return DeviceRoom(
        device_id=f"node/{kind}:{size_bytes}",
        device_type=device_type or kind,
        kind=kind,
        total_bytes=size_bytes,
        free_bytes=size_bytes,
        schedulable=online,
    )


def short(
    *, training: dict[str, Any] | None = None, resources: dict[str, Any] | None = None, **changes: Any
) -> ShortJob:
    values: dict[str, Any] = {
        "plan": make_plan(micro_batch_rows=4, accumulation_steps=2),
        "spec": JobShape(model="m", training=training or {}, resources=resources or {}),
        "footprints": {"cpu": 2 * GIB},
        "rooms": [room(8 * GIB)],
        "attempt_number": 1,
        "kind": "cpu",
        "reserved_bytes": 2 * GIB,
        "peak_bytes": 2 * GIB + 100 * 2**20,
        "remedies_before": 0,
    }
    return ShortJob(**{**values, **changes})


def walk(job: ShortJob) -> list[str]:
    """The kinds of remedies of a job that always runs out of memory again, to the end."""
    kinds = []
    while (remedy := choose_remedy(job)) is not None:
        kinds.append(remedy.kind)
        assert remedy.plan.micro_batch_rows * remedy.plan.accumulation_steps == job.plan.batch_rows
        changed = {name for name, value in remedy.plan if getattr(job.plan, name) != value}
        assert changed <= {"micro_batch_rows", "accumulation_steps", "gradient_checkpointing"}
        job = ShortJob(
            **{
                **vars(job),
                "plan": remedy.plan,
                "footprints": remedy.footprints,
                "reserved_bytes": remedy.footprints.get(job.kind, job.reserved_bytes),
                "peak_bytes": 0,
                "remedies_before": job.remedies_before + 1,
                "attempt_number": job.attempt_number + 1,
            }
        )
    return kinds


@pytest.mark.parametrize(
    ("job", "kinds"),
    [
        (short(), ["micro_batch", "micro_batch", "gradient_checkpointing", "memory"]),
        (
            short(plan=make_plan(micro_batch_rows=32, accumulation_steps=1)),
            ["micro_batch", "micro_batch", "gradient_checkpointing", "memory"],
        ),
        (short(plan=make_plan(micro_batch_rows=1)), ["gradient_checkpointing", "memory", "memory", "memory"]),
        (short(plan=make_plan(micro_batch_rows=2), rooms=[room(2 * GIB)]), ["micro_batch", "gradient_checkpointing"]),
        (
            short(training={"gradient_checkpointing": False}, rooms=[room(2 * GIB)]),
            ["micro_batch", "micro_batch"],
        ),
        (short(plan=make_plan(micro_batch_rows=1, gradient_checkpointing=True), rooms=[room(2 * GIB)]), []),
        (short(remedies_before=MAX_REMEDIES), []),
    ],
)
def test_remedies_come_in_the_order_of_what_they_cost_and_end(job: ShortJob, kinds: list[str]) -> None:
    assert walk(job) == kinds


@pytest.mark.parametrize(("micro", "accumulation", "expected"), [(6, 1, (3, 2)), (3, 2, (1, 6)), (5, 1, (1, 5))])
def test_a_batch_that_is_no_power_of_two_takes_the_next_smaller_divisor(
    micro: int, accumulation: int, expected: tuple[int, int]
) -> None:
    remedy = choose_remedy(short(plan=make_plan(micro_batch_rows=micro, accumulation_steps=accumulation)))
    assert remedy is not None
    assert (remedy.plan.micro_batch_rows, remedy.plan.accumulation_steps) == expected


def test_the_event_can_be_read_by_a_person() -> None:
    remedy = choose_remedy(short(training={"micro_batch_size": 4}))
    assert remedy is not None
    assert remedy.sentence == (
        "Attempt 1 ran out of memory at 2.10 GiB of 2.00 GiB; attempt 2 uses a micro-batch of 2 instead of 4, with 4 "
        "accumulation steps instead of 2, so each step still trains on 8 rows. training.micro_batch_size 4 was given; "
        "the split does not change what is learned."
    )
    assert remedy.settings == {"training.micro_batch_size": 2, "training.gradient_accumulation": 4}
    unknown = choose_remedy(short(peak_bytes=0))
    assert unknown is not None
    assert unknown.sentence.startswith("Attempt 1 ran out of memory with 2.00 GiB reserved; attempt 2 uses")
    assert "given" not in unknown.sentence


def test_an_exclusive_job_does_not_come_to_need_a_device_as_large_as_the_one_it_had() -> None:
    """Another device, smaller by a little, would be its own as well."""
    alone = short(resources={"exclusive": True}, reserved_bytes=8 * GIB, rooms=[room(8 * GIB), room(8 * GIB - 1)])
    remedy = choose_remedy(alone)
    assert remedy is not None
    assert (remedy.kind, remedy.footprints) == ("micro_batch", {"cpu": 2 * GIB})
    one_row = replace(alone, plan=make_plan(micro_batch_rows=1, gradient_checkpointing=True))
    assert choose_remedy(one_row) is None, "it had all of the largest device"
    larger = choose_remedy(replace(one_row, rooms=[room(8 * GIB), room(16 * GIB)]))
    assert larger is not None
    assert (larger.kind, larger.footprints) == ("memory", {"cpu": 10 * GIB}), "that only the larger one has"


def test_a_smaller_micro_batch_keeps_at_least_what_was_reserved() -> None:
    """Of an exclusive job that was all of the device, more than its footprint."""
    remedy = choose_remedy(short(footprints={"cpu": GIB, "cuda": 3 * GIB}))
    assert remedy is not None
    assert remedy.footprints == {"cpu": 2 * GIB, "cuda": 3 * GIB}


LAST = {"plan": make_plan(micro_batch_rows=1, gradient_checkpointing=True)}


@pytest.mark.parametrize(
    ("largest", "peak", "more"),
    [(8 * GIB, 0, 5 * GIB // 2), (int(2.2 * GIB), 0, int(2.2 * GIB)), (8 * GIB, 3 * GIB, 3 * GIB)],
)
def test_more_memory_is_a_quarter_more_up_to_the_largest_device(largest: int, peak: int, more: int) -> None:
    remedy = choose_remedy(short(**LAST, rooms=[room(GIB), room(largest)], peak_bytes=peak))
    assert remedy is not None
    assert (remedy.kind, remedy.footprints) == ("memory", {"cpu": more})
    assert "instead of 2.00 GiB" in remedy.sentence


def test_another_kind_of_device_comes_last_and_only_when_it_is_there_and_allowed() -> None:
    both = {"cpu": 2 * GIB, "cuda": 3 * GIB}
    rooms = [room(2 * GIB), room(24 * GIB, kind="cuda", device_type="nvidia-rtx-4090")]
    remedy = choose_remedy(short(**LAST, footprints=both, rooms=rooms))
    assert remedy is not None
    assert (remedy.kind, remedy.footprints) == ("device_type", {"cuda": 3 * GIB})
    assert "asks for 3.00 GiB of a cuda device" in remedy.sentence
    assert choose_remedy(short(**LAST, footprints=both, rooms=rooms, resources={"device_type": "cpu"})) is None
    offline = [rooms[0], room(24 * GIB, kind="cuda", online=False)]
    assert choose_remedy(short(**LAST, footprints=both, rooms=offline)) is None


def test_the_way_out_fits_by_what_was_measured_and_not_by_what_was_predicted() -> None:
    plan = make_plan(micro_batch_rows=1, gradient_checkpointing=True, max_seq_tokens=4096)
    job = short(plan=plan, rooms=[room(2 * GIB)], peak_bytes=int(2.1 * GIB))
    assert "with which it should fit is training.max_seq_length" in describe_way_out(job, make_base_model())
    hopeless = short(plan=make_plan(micro_batch_rows=1, gradient_checkpointing=True, max_seq_tokens=64), **{
        "rooms": [room(GIB // 2)], "reserved_bytes": GIB // 2, "peak_bytes": 8 * GIB,
    })  # fmt: skip
    assert (
        describe_way_out(hopeless, make_base_model()) == "It takes a device with more memory, or a smaller base model."
    )
