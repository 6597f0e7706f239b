"""FSDP on one of several devices: each has a share of every parameter, gradient and state, and gathers what it needs.

As torch 2.13's fully_shard does it with a unit a layer, one for all that is in no layer, and no policies of its own
(torch/distributed/fsdp/_fully_shard, _fsdp_param_group.py and _fsdp_collectives.py):

- A parameter is divided along its first dimension, and a share is as large as the first device's.
- Gathering takes a buffer of the unit's bytes and the unit's parameters. In forward the buffer goes when the next unit
  has been gathered, in backward at once, but then the unit below is on its way already.
- The outermost unit stays gathered from the beginning of forward to the end of backward.
- After a unit's backward its gradients are copied into one buffer, which lives until the next unit's; the reduced share
  is what the optimizer sees.
- Buffers, and with bitsandbytes the constants of quantized weights, are on each device as a whole.
"""

from collections import defaultdict

from workers.estimator.depth import Recording
from workers.estimator.tracker import Born, Label

_PARAMETERS = frozenset({"base_weights", "adapters"})
_ROOT = -1
_COMPUTES, _GATHERS, _REDUCES = range(3)
"""Streams: a buffer for gathering and a reduced share come from their own, so the allocator keeps them apart."""


def spread(recording: Recording, count: int) -> Recording:
    """The stream of one of `count` devices."""
    return _Spreader(recording, count).run()


class _Spreader:
    def __init__(self, recording: Recording, count: int) -> None:
        self._recording, self._count = recording, count
        self._births = list(recording.births)
        self._events: list[int] = []
        self._whole: dict[int, list[int]] = defaultdict(list)
        """Bytes of each parameter of a unit, gathered."""
        self._gathered: dict[int, list[int]] = {}
        self._buffers: dict[int, int] = {}
        """Gathered bytes on their way into a unit's parameters."""
        self._done_buffer: int | None = None
        """Forward's last one, which the next gathering frees."""
        self._reducing: int | None = None
        self._gradients: dict[int, list[int]] = defaultdict(list)
        self._waiting: dict[int, list[int]] = {}
        """For each whole gradient the numbers, shared by its unit's, of those that have not been let go yet."""
        self._shares: dict[int, int] = {}

    def run(self) -> Recording:
        recording, marks = self._recording, []
        self._share_out()
        ends = [start for start, _ in recording.marks[1:]] + [len(recording.events)]
        for (start, label), end in zip(recording.marks, ends, strict=True):
            marks.append((len(self._events), label))
            self._begin(label)
            self._copy(recording.events[start:end])
            self._finish(label)
        return Recording(self._events, self._births, marks, recording.flops)

    def _share_out(self) -> None:
        """Parameters and states of a device's own size."""
        for number, born in enumerate(self._births):
            if born.rows and born.kind in _PARAMETERS:
                self._births[number] = born._replace(size_bytes=self._share(born))
                self._whole[born.owner].append(self._count * self._share(born))
            elif born.rows and born.kind == "optimizer":
                self._births[number] = born._replace(size_bytes=self._share(born))

    def _share(self, born: Born) -> int:
        return born.size_bytes // born.rows * -(-born.rows // self._count)

    def _begin(self, label: Label) -> None:
        name, layer = label
        if name in {"step", "evaluation"}:
            self._gather(_ROOT)
        elif name == "forward":
            self._gather(layer)
        elif name == "head_backward":
            self._prefetch(max(self._whole))
        elif name == "backward":
            self._gather_for_backward(layer)
        elif name == "clip":
            self._reduce(_ROOT)
            self._free_reduced()

    def _finish(self, label: Label) -> None:
        name, layer = label
        if name == "forward":
            self._scatter(layer)
        elif name == "head":
            self._free_done_buffer()
        elif name == "backward":
            self._reduce(layer)

    def _gather(self, unit: int) -> None:
        if unit in self._gathered:
            return
        self._prefetch(unit)
        self._gathered[unit] = [self._bear(size, "base_weights", unit) for size in self._whole[unit]]
        self._free_done_buffer()
        self._done_buffer = self._buffers.pop(unit)

    def _free_done_buffer(self) -> None:
        if self._done_buffer is not None:
            self._die(self._done_buffer)
            self._done_buffer = None

    def _prefetch(self, unit: int) -> None:
        if unit not in self._buffers and unit not in self._gathered:
            self._buffers[unit] = self._bear(sum(self._whole[unit]), "base_weights", unit, stream=_GATHERS)

    def _gather_for_backward(self, layer: int) -> None:
        self._prefetch(layer)
        self._gathered[layer] = [self._bear(size, "base_weights", layer) for size in self._whole[layer]]
        self._die(self._buffers.pop(layer))
        if layer > 0:
            self._prefetch(layer - 1)

    def _scatter(self, unit: int) -> None:
        for number in self._gathered.pop(unit, []):
            self._die(number)

    def _reduce(self, unit: int) -> None:
        """Let the gathered parameters go and sum up the unit's gradients over all devices."""
        self._scatter(unit)
        self._free_reduced()
        whole = self._gradients.pop(unit, [])
        if not whole:
            return
        share = sum(self._share(self._births[number]) for number in whole)
        self._reducing = self._bear(self._count * share, "gradients", unit)
        for number in whole:
            self._die(number)
        reduced = self._bear(share, "gradients", unit, stream=_REDUCES)
        waiting = list(whole)
        for number in whole:
            self._waiting[number], self._shares[number] = waiting, reduced

    def _free_reduced(self) -> None:
        if self._reducing is not None:
            self._die(self._reducing)
            self._reducing = None

    def _copy(self, events: list[int]) -> None:
        """The recording's own events. The death of a gradient that has been reduced is that of its share."""
        for event in events:
            if event >= 0:
                self._events.append(event)
                born = self._births[event]
                if born.kind == "gradients":
                    self._gradients[born.owner].append(event)
            elif ~event in self._waiting:
                waiting = self._waiting.pop(~event)
                waiting.remove(~event)
                reduced = self._shares.pop(~event)
                if not waiting:
                    self._die(reduced)
            else:
                self._events.append(event)

    def _bear(self, size: int, kind: str, unit: int, *, stream: int = _COMPUTES) -> int:
        self._births.append(Born(size, kind, unit, stream=stream))
        self._events.append(len(self._births) - 1)
        return len(self._births) - 1

    def _die(self, number: int) -> None:
        self._events.append(~number)
