"""A second step without running it: where everything that a step allocated is gone after it, the next is the same.

Only the optimizer runs twice, because its first run makes its states. The rest is written into the tracker as if it had
been run: a step's own allocations get new numbers, and what lived before it keeps its number.
"""

from collections.abc import Callable
from typing import Any

from workers.estimator.tracker import Label, Tracker

_Sections = list[tuple[Label, list[int]]]


class FirstStep:
    """A step on a tracker, from where this is made; its optimizer must not have run yet."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._mark, self._birth = len(tracker.marks), len(tracker.births)

    def leaves_only_gradients(self) -> bool:
        tracker = self._tracker
        return all(tracker.births[number].kind == "gradients" for number in tracker.alive if number >= self._birth)

    def finish_twice(self, optimize: Callable[[], Any], free_gradients: Callable[[], None]) -> None:
        """Run the optimizer for both steps and let the gradients go, then write the second step."""
        tracker = self._tracker
        marks, births = [self._mark], [self._birth]
        flops = dict(tracker.flops)
        for _ in range(2):
            marks.append(len(tracker.marks))
            births.append(len(tracker.births))
            tracker.enter("optimizer")
            optimize()
        marks.append(len(tracker.marks))
        tracker.enter("zero")
        free_gradients()
        self._write(marks, births)
        for label, amount in flops.items():
            tracker.flops[label] += amount

    def _write(self, marks: list[int], births: list[int]) -> None:
        """`marks` and `births`: where the step begins, the optimizer, its second run, and for marks what follows."""
        tracker, (start, made, again) = self._tracker, births
        count = made - start

        def move(number: int) -> int:
            """An allocation's number in the second step."""
            return number + (again - start if start <= number < made else count if number >= again else 0)

        sections = _cut(tracker)
        before, step, first, second = (sections[a:b] for a, b in zip([0, *marks], marks, strict=False))
        freed = sections[marks[-1] :]
        repeated = [
            (label, [move(event) if event >= 0 else ~move(~event) for event in events])
            for label, events in (*step, *second, *freed)
        ]
        collective = {move(number): shares for number, shares in tracker.collective.items() if number >= start}
        tracker.collective = {n: shares for n, shares in tracker.collective.items() if n < again} | collective
        tracker.births[again:] = tracker.births[start:made] + tracker.births[again:]
        tracker.events, tracker.marks = [], []
        for label, events in (*before, *step, *first, *freed, *repeated):
            tracker.marks.append((len(tracker.events), label))
            tracker.events += events


def _cut(tracker: Tracker) -> _Sections:
    ends = [start for start, _ in tracker.marks[1:]] + [len(tracker.events)]
    return [(label, tracker.events[start:end]) for (start, label), end in zip(tracker.marks, ends, strict=True)]
