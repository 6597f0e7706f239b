"""Layers repeat: a recording of few layers, stretched to any number of them, event for event.

The layers of a configuration have a period (1 for most; 2 or 6 where attention alternates; a few odd ones in front of
mixtures of experts). A shallow model keeps the first and the last layers and some periods between them; the block of
one inner period is then repeated in every section of the recording. A layer's events name other layers' allocations by
distance, so the result is the stream that the deep model would have given. It is checked: every death must find its
allocation alive, else Unstretchable is raised and the caller records the whole model.
"""

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedConfig

from workers.estimator.tracker import Born, Label, Tracker

LONGEST_PERIOD = 8
_INDEX_LISTS = ("mlp_only_layers", "full_attn_idxs")
"""Lists of layer numbers in configurations; other lists as long as the model name a kind for each layer."""
_FIRST_DENSE = "first_k_dense_replace"
_EVERY = ("decoder_sparse_step", "moe_layer_freq", "interleave_moe_layer_step")
"""Periods of mixture layers, in configurations that give them as a number."""

Place = tuple[str, int, int, int, int]
"""An allocation's: section, its repetition, its layer, the owner's layer, and its rank among those."""
Numbers = npt.NDArray[np.int64]


class Unstretchable(ValueError):
    """The recording does not repeat as its configuration says."""


@dataclass(frozen=True)
class Recording:
    """The events of two steps: n is the birth of allocation n, ~n its death. `flops` are those of both steps."""

    events: list[int]
    births: list[Born]
    marks: list[tuple[int, Label]]
    flops: int


@dataclass(frozen=True)
class Plan:
    """Layers [first, first + period) of the shallow model stand for `copies` more periods of the deep one."""

    first: int
    period: int
    copies: int
    depth: int

    @property
    def last(self) -> int:
        return self.first + self.period

    @property
    def shift(self) -> int:
        return self.period * self.copies

    def settle(self, layer: int) -> int:
        """The deep model's number of a shallow layer outside of the block, or in its first copy."""
        return layer if layer < self.last else layer + self.shift

    def move(self, layer: int, *, near: int, target: int) -> int:
        """The deep number of `layer`, named in the events of layer `near` where those belong to layer `target`."""
        if layer < 0 or near < 0:
            return self.settle(layer)
        distance = layer - near
        return target + distance if abs(distance) <= self.period else self.settle(layer)


def plan_depth(config: PreTrainedConfig) -> Plan:
    """Where the layers repeat. `copies` is 0 where they don't, or where the model is shallow anyhow.

    One period below the block has to be like it in every respect, and layer 0 is not: nothing below it is trained.
    """
    text = config.get_text_config()
    depth = text.num_hidden_layers
    signatures = _describe_layers(text)
    best = Plan(first=0, period=1, copies=0, depth=depth)
    for period in range(1, LONGEST_PERIOD + 1):
        odd = 0
        for index in range(depth - period):
            if signatures[index] != signatures[index + period]:
                odd = index + 1
        first = max(odd, 1) + period
        copies = (depth - first - period - 1) // period
        if copies * period > best.copies * best.period:
            best = Plan(first=first, period=period, copies=copies, depth=depth)
    return best


def shrink_config(config: PreTrainedConfig, plan: Plan) -> PreTrainedConfig:
    """The shallow model's configuration: the same, without the repeated layers."""
    if plan.copies == 0:
        return config
    small = copy.deepcopy(config)
    text: Any = small.get_text_config()
    kept = [layer for layer in range(plan.depth) if not plan.last <= layer < plan.last + plan.shift]
    for name, value in list(vars(text).items()):
        if name in _INDEX_LISTS and value:
            setattr(text, name, [kept.index(layer) for layer in value if layer in kept])
        elif isinstance(value, list) and len(value) == plan.depth:
            setattr(text, name, [value[layer] for layer in kept])
    text.num_hidden_layers = plan.depth - plan.shift
    return small


def _describe_layers(text: Any) -> list[tuple[Any, ...]]:
    depth = text.num_hidden_layers
    lists = [
        [str(item) for item in value]
        for name, value in sorted(vars(text).items())
        if isinstance(value, list) and len(value) == depth and name not in _INDEX_LISTS
    ]
    dense = getattr(text, _FIRST_DENSE, 0) or 0
    periods = [value for name in _EVERY if isinstance(value := getattr(text, name, 1), int) and value > 1]
    chosen = [set(getattr(text, name, None) or ()) for name in _INDEX_LISTS]
    return [
        (
            *(values[layer] for values in lists),
            layer < dense,
            *((layer + 1) % period for period in periods),
            *(layer in layers for layers in chosen),
        )
        for layer in range(depth)
    ]


def stretch(tracker: Tracker, plan: Plan) -> Recording:
    """The recording of the deep model. Raises Unstretchable."""
    if plan.copies == 0:
        return Recording(tracker.events, tracker.births, tracker.marks, sum(tracker.flops.values()))
    return _Stretcher(tracker, plan).run()


@dataclass(frozen=True)
class _Section:
    name: str
    layer: int
    repetition: int
    events: list[int]


class _Stretcher:
    """An allocation's key is one number: its site (section, repetition, rank), its layer and its owner's layer."""

    def __init__(self, tracker: Tracker, plan: Plan) -> None:
        self._births, self._plan, self._flops = tracker.births, plan, tracker.flops
        self._sections = _cut(tracker)
        self._places = self._rank()
        self._width = plan.depth + 2
        self._sites, self._layers, self._owners = self._number_places()
        self._sizes = np.array([born.size_bytes for born in tracker.births], dtype=np.int64)
        for number, shares in tracker.collective.items():
            self._sizes[number] += self._share_of_copies(shares)
        self._alive: dict[int, int] = {}
        self._seen: set[int] = set()
        self._events: list[Numbers] = []
        self._length = 0
        self._born: list[Born] = []
        self._marks: list[tuple[int, Label]] = []

    def run(self) -> Recording:
        plan, index = self._plan, 0
        while index < len(self._sections):
            section = self._sections[index]
            self._block_before(index)
            if section.layer < 0:
                self._emit_flat(section)
            else:
                self._emit(section, plan.settle(section.layer))
            self._block_after(index)
            index += 1
        return Recording(np.concatenate(self._events).tolist(), self._born, self._marks, self._count_flops())

    def _block_after(self, index: int) -> None:
        """Repeat the block behind itself where sections run up the layers, as in forward."""
        plan, section = self._plan, self._sections[index]
        if section.name == "forward" and section.layer == plan.last - 1:
            block = self._sections[index - plan.period + 1 : index + 1]
            for number in range(1, plan.copies + 1):
                for item in block:
                    self._emit(item, item.layer + number * plan.period)

    def _block_before(self, index: int) -> None:
        """Repeat it before itself where they run down, as in backward."""
        plan, section = self._plan, self._sections[index]
        if section.name == "backward" and section.layer == plan.last - 1:
            block = self._sections[index : index + plan.period]
            for number in range(plan.copies, 0, -1):
                for item in block:
                    self._emit(item, item.layer + number * plan.period)

    def _emit(self, section: _Section, target: int) -> None:
        """A layer's section, for layer `target` of the deep model."""
        self._marks.append((self._length, (section.name, target)))
        events = np.array(section.events, dtype=np.int64)
        numbers = np.where(events < 0, ~events, events)
        depth = self._plan.depth - self._plan.shift
        moved = np.array(
            [self._plan.move(layer, near=section.layer, target=target) for layer in range(-1, depth)], dtype=np.int64
        )
        self._append(events, moved[self._layers[numbers] + 1], moved[self._owners[numbers] + 1])

    def _emit_flat(self, section: _Section) -> None:
        """A section about all layers, such as the optimizer's: runs of the block's events are repeated in place."""
        self._marks.append((self._length, (section.name, -1)))
        plan, events, index = self._plan, section.events, 0
        places = {(event < 0, *self._place_of(event)) for event in events}
        shifted: list[int] = []
        shifts: list[int] = []
        while index < len(events):
            end = index
            while end < len(events) and self._repeats(events[end], places):
                end += 1
            if end == index:
                inside = plan.first <= self._layer_of(events[index]) < plan.last
                shifted.append(events[index])
                shifts.append(plan.shift if inside else 0)
                index += 1
                continue
            numbers = range(plan.copies + 1)
            for number in numbers if self._rises(events, index, end) else reversed(numbers):
                shifted += events[index:end]
                shifts += [number * plan.period] * (end - index)
            index = end
        self._append_shifted(np.array(shifted, dtype=np.int64), np.array(shifts, dtype=np.int64))

    def _repeats(self, event: int, places: set[tuple[Any, ...]]) -> bool:
        """Whether the section does this for the block's layer and for the same layer one period below: so for all."""
        name, repetition, layer, owner, rank = self._place_of(event)
        period = self._plan.period
        if not self._plan.first <= (owner if owner >= 0 else layer) < self._plan.last:
            return False
        below = [item - period if item >= 0 else item for item in (layer, owner)]
        return (event < 0, name, repetition, below[0], below[1], rank) in places

    def _place_of(self, event: int) -> Place:
        return self._places[event if event >= 0 else ~event]

    def _rises(self, events: list[int], start: int, end: int) -> bool:
        """Whether a run over the layers goes up: by its neighbours, or within itself."""
        before = self._layer_of(events[start - 1]) if start > 0 else -1
        after = self._layer_of(events[end]) if end < len(events) else -1
        if before >= 0:
            return before < self._plan.first
        if after >= 0:
            return after >= self._plan.last
        return True

    def _layer_of(self, event: int) -> int:
        """The layer that an event is about: its allocation's owner, or the section that it was born in."""
        _name, _repetition, layer, owner, _rank = self._place_of(event)
        return owner if owner >= 0 else layer

    def _append_shifted(self, events: Numbers, shifts: Numbers) -> None:
        """Layers inside the block are moved by the events' shifts, others to where the deep model has them."""
        numbers = np.where(events < 0, ~events, events)
        first, last, shift = self._plan.first, self._plan.last, self._plan.shift
        moved = []
        for layers in (self._layers[numbers], self._owners[numbers]):
            settled = np.where(layers < last, layers, layers + shift)
            moved.append(np.where((layers >= first) & (layers < last), layers + shifts, settled))
        self._append(events, *moved)

    def _append(self, events: Numbers, layers: Numbers, owners: Numbers) -> None:
        """Events of the recording, about allocations of these layers and owners in the deep model."""
        is_birth = events >= 0
        numbers = np.where(is_birth, events, ~events)
        keys = self._sites[numbers] + (layers + 1) * self._width + owners + 1
        start, added = len(self._born), numbers[is_birth].tolist()
        found = keys[is_birth].tolist()
        self._seen.update(found)
        if len(self._seen) != start + len(added):
            raise Unstretchable("an allocation would be born twice")
        self._alive.update(zip(found, range(start, start + len(added)), strict=True))
        kinds = [self._births[number].kind for number in added]
        rows = [self._births[number].rows for number in added]
        self._born.extend(map(Born, self._sizes[added].tolist(), kinds, owners[is_birth].tolist(), rows))
        try:
            gone = np.array([self._alive.pop(key) for key in keys[~is_birth].tolist()], dtype=np.int64)
        except KeyError as error:
            raise Unstretchable("an allocation would die without having lived") from error
        appended = np.empty_like(events)
        appended[is_birth] = np.arange(start, start + len(added))
        appended[~is_birth] = ~gone
        here = gone >= start
        if np.any(np.flatnonzero(is_birth)[gone[here] - start] > np.flatnonzero(~is_birth)[here]):
            raise Unstretchable("an allocation would die before its birth")
        self._events.append(appended)
        self._length += len(appended)

    def _share_of_copies(self, shares: Counter[int]) -> int:
        """Bytes that the repeated layers add to an output made of all layers' inputs."""
        return self._plan.copies * sum(shares[layer] for layer in range(self._plan.first, self._plan.last))

    def _rank(self) -> list[Place]:
        """Each allocation's place: which section of which layer made it, whose it is, the how manieth of those."""
        places: dict[int, Place] = {}
        for section in self._sections:
            counts: Counter[int] = Counter()
            for event in section.events:
                if event >= 0:
                    owner = self._births[event].owner
                    places[event] = (section.name, section.repetition, section.layer, owner, counts[owner])
                    counts[owner] += 1
        return [places[number] for number in range(len(self._births))]

    def _number_places(self) -> tuple[Numbers, Numbers, Numbers]:
        """Of each allocation: a number for its site, with room for two layers below it; its layer; its owner's."""
        sites: dict[tuple[str, int, int], int] = {}
        table = np.empty((3, len(self._places)), dtype=np.int64)
        for number, (name, repetition, layer, owner, rank) in enumerate(self._places):
            site = sites.setdefault((name, repetition, rank), len(sites))
            table[:, number] = site * self._width**2, layer, owner
        return table[0], table[1], table[2]

    def _count_flops(self) -> int:
        inside = range(self._plan.first, self._plan.last)
        return sum(
            amount * (1 + self._plan.copies if layer in inside else 1) for (_, layer), amount in self._flops.items()
        )


def _cut(tracker: Tracker) -> list[_Section]:
    counts: Counter[Label] = Counter()
    ends = [start for start, _ in tracker.marks[1:]] + [len(tracker.events)]
    sections = []
    for (start, (name, layer)), end in zip(tracker.marks, ends, strict=True):
        sections.append(_Section(name, layer, counts[name, layer], tracker.events[start:end]))
        counts[name, layer] += 1
    return sections
