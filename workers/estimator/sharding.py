"""What several devices change in the recording of one: DDP adds buckets; FSDP is in fully_sharded.py."""

from workers.estimator.depth import Recording
from workers.estimator.fully_sharded import spread
from workers.estimator.request import Devices
from workers.estimator.tracker import Born

FIRST_BUCKET_BYTES, BUCKET_BYTES = 2**20, 25 * 2**20
"""Where DDP closes its first bucket and the others (torch 2.13, DistributedDataParallel's bucket_cap_mb)."""
BROADCAST_BYTES = 250 * 2**20
"""The same for what the first device sends to the others at the start (broadcast_bucket_size, same file)."""


def shard(recording: Recording, devices: Devices) -> Recording:
    """The stream of one of these devices."""
    if devices.sharding == "ddp":
        return _add_buckets(recording)
    if devices.sharding == "fsdp":
        return spread(recording, devices.count)
    return recording


def _add_buckets(recording: Recording) -> Recording:
    """DDP as torch makes it: beside the gradients as many bytes of buckets, because gradient_as_bucket_view is off.

    The first step has one bucket for everything that is trained. When the order is known in which gradients come,
    before the second forward, it is given back for buckets of a bounded size (Reducer::rebuild_buckets).
    """
    first, second = (start for start, (name, _) in recording.marks if name == "step")
    births, events = list(recording.births), recording.events
    sent = _broadcast(births, events[:first])
    made = [births[event] for event in events[first:second] if event >= 0]
    sizes = [born.size_bytes for born in made if born.kind == "gradients"]
    once = [len(births)]
    births.append(Born(sum(sizes), "gradients", -1))
    buckets = [sum(bucket) for bucket in _fill_buckets(sizes, FIRST_BUCKET_BYTES, BUCKET_BYTES)]
    rebuilt = list(range(len(births), len(births) + len(buckets)))
    births += [Born(size, "gradients", -1) for size in buckets]
    return insert(recording, births, {first: sent + once, second: [~once[0], *rebuilt]})


def _broadcast(births: list[Born], loaded: list[int]) -> list[int]:
    """Events of sending the model: tensors are copied together for it, but one that fills a bucket alone is not; two
    copies exist at a time (broadcast_coalesced, torch/csrc/distributed/c10d/comm.cpp)."""
    gone = {~event for event in loaded if event < 0}
    sizes = [births[event].size_bytes for event in loaded if event >= 0 and event not in gone]
    copies = [sum(bucket) for bucket in _fill_buckets(sizes, BROADCAST_BYTES, BROADCAST_BYTES) if len(bucket) > 1]
    numbers = list(range(len(births), len(births) + len(copies)))
    births += [Born(size, "base_weights", -1) for size in copies]
    events: list[int] = []
    for before, number in zip([None, *numbers], numbers, strict=False):
        events += [number] if before is None else [number, ~before]
    return events + [~number for number in numbers[-1:]]


def _fill_buckets(sizes: list[int], first_bytes: int, other_bytes: int) -> list[list[int]]:
    """Sizes of what is in each bucket: one is closed by the tensor that reaches its bound."""
    buckets: list[list[int]] = [[]]
    bound = first_bytes
    for size in sizes:
        buckets[-1].append(size)
        if sum(buckets[-1]) >= bound:
            buckets.append([])
            bound = other_bytes
    return [bucket for bucket in buckets if bucket]


def insert(recording: Recording, births: list[Born], insertions: dict[int, list[int]]) -> Recording:
    """The recording with more events at the beginning of the steps that start at these places."""
    events: list[int] = []
    marks = []
    ends = [start for start, _ in recording.marks[1:]] + [len(recording.events)]
    for (start, label), end in zip(recording.marks, ends, strict=True):
        marks.append((len(events), label))
        if label[0] == "step":
            events += insertions.get(start, [])
        events += recording.events[start:end]
    return Recording(events, births, marks, recording.flops)
