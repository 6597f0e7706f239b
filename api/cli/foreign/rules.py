"""What the fields of another tool become, said as data: one `Rule` for each field, applied by `Translation`.

Three things can come of a field: it becomes a field of ours, perhaps changed; it is needless, because Tunepool does it
by itself; or it has no counterpart and is lost, which is told with a reason and what to do instead.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from api.cli.foreign.given import ForeignFile, Given
from api.cli.jobtext import JobField

Place = tuple[str, ...]


class Fate(StrEnum):
    CHANGED = "changed"
    LOST = "lost"
    NEEDLESS = "needless"


@dataclass(frozen=True)
class Note:
    """What became of a field that is not simply taken over. `line` 0: the field is not in the file."""

    name: str
    value: Any
    line: int
    fate: Fate
    text: str


class UnfitError(Exception):
    """A value has no counterpart; the message says why and what to do instead."""


@dataclass(frozen=True)
class Changed:
    """A value that is not quite the one that was asked for."""

    value: Any
    text: str


@dataclass(frozen=True)
class Rule:
    """What becomes of one field.

    `to` is our field, such as 'lora.r', and `read` makes its value. Without `to`, `lost` or `needless` says why, and
    `off` are the values that ask for nothing, so that there is nothing to tell. `later` fields are read with others.
    """

    to: str = ""
    read: Callable[[Any], Any] = lambda value: value
    lost: str = ""
    needless: str = ""
    off: tuple[Any, ...] = ()
    later: bool = False


LATER = Rule(later=True)
UNKNOWN = "this importer does not know the field; see docs/cli.md for what a job may have"
NOTHING: tuple[Any, ...] = (None, "", False, "no", "none", "None")
SKIP = object()
"""What `read` returns for a value that asks for nothing."""


def needless(text: str) -> Rule:
    return Rule(needless=text)


def lost(text: str, *off: Any) -> Rule:
    return Rule(lost=text, off=off)


def each(names: str, rule: Rule) -> dict[str, Rule]:
    """One rule for many fields; names with blanks between them."""
    return dict.fromkeys(names.split(), rule)


@dataclass
class Translation:
    """Collects fields and notes. `origins` are the fields that ours came from, for errors with lines."""

    source: ForeignFile
    fields: dict[Place, JobField] = field(default_factory=dict)
    origins: dict[Place, Given] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    todo: list[str] = field(default_factory=list)
    """Commands that are left to the user."""

    def apply(self, rules: Mapping[str, Rule]) -> None:
        for given in self.source.fields.values():
            rule = rules.get(given.name)
            if rule is None:
                self._unknown(given)
            elif not (rule.later or _is_off(given.value, rule)):
                self._apply(rule, given)

    def apply_one(self, name: str, rule: Rule) -> None:
        """A field whose rule depends on others."""
        self._apply(rule, self.source.fields[name])

    def set(self, place: str, value: Any, given: Given | None, comment: str = "") -> None:
        """`comment` stands beside the field; the name of the field that it came from when there is none."""
        path = tuple(place.split("."))
        self.fields[path] = JobField(path, value, comment or (given.name if given else ""))
        if given is not None:
            self.origins[path] = given

    def default(self, place: str, value: Any, comment: str) -> None:
        """What the other tool does when nothing is said, where that is not what Tunepool does."""
        if tuple(place.split(".")) not in self.fields:
            self.set(place, value, None, comment)

    def has(self, place: str) -> bool:
        return tuple(place.split(".")) in self.fields

    def drop(self, place: str) -> None:
        self.fields.pop(tuple(place.split(".")), None)

    def note(self, name: str, fate: Fate, text: str) -> None:
        """About a field of the source, or one that it leaves out."""
        given = self.source.fields.get(name)
        self.notes.append(Note(name, given.value if given else None, given.line if given else 0, fate, text))

    def notes_of(self, fate: Fate) -> Iterable[Note]:
        return (note for note in self.notes if note.fate is fate)

    def _apply(self, rule: Rule, given: Given) -> None:
        if rule.needless or rule.lost:
            self.note(given.name, Fate.NEEDLESS if rule.needless else Fate.LOST, rule.needless or rule.lost)
            return
        try:
            value = rule.read(given.value)
        except UnfitError as unfit:
            self.note(given.name, Fate.LOST, str(unfit))
            return
        if value is SKIP:
            return
        if isinstance(value, Changed):
            self.note(given.name, Fate.CHANGED, value.text)
            value = value.value
        self.set(rule.to, value, given)

    def _unknown(self, given: Given) -> None:
        if given.value not in NOTHING and given.value not in ([], {}):
            self.note(
                given.name, Fate.LOST, "this importer does not know the field; see docs/cli.md for what a job may have"
            )


def _is_off(value: Any, rule: Rule) -> bool:
    """Nothing is asked for; rules that read a value see false and 0, which may mean something."""
    if value is None or value in ("", [], {}):
        return True
    plain = not rule.to and value in NOTHING
    return plain or any(value == off and type(value) is type(off) for off in rule.off)


# ---- readers of values ----------------------------------------------------------------------------------------------
def number(value: Any) -> float | int:
    """2e-4 and '2e-4' are the same. Raises UnfitError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UnfitError("it should be a number")
    try:
        found = value if isinstance(value, int | float) else float(value)
    except ValueError:
        raise UnfitError("it should be a number") from None
    if not math.isfinite(found):
        raise UnfitError("it should be a finite number")
    return found


def whole(value: Any) -> int:
    found = number(value)
    if found != int(found):
        raise UnfitError("it should be a whole number")
    return int(found)


def limit(value: Any) -> Any:
    """A count of which -1 and 0 mean none."""
    found = whole(value)
    return found if found > 0 else SKIP


def epochs(value: Any) -> Any:
    found = number(value)
    if found == int(found):
        return int(found)
    rounded = max(1, round(found))
    return Changed(rounded, f"whole passes only: {rounded}; training.max_steps stops in the middle of one")


def steps(value: Any) -> Any:
    """Steps between two events; a share of the run is one of those that we choose ourselves."""
    found = number(value)
    if 0 < found < 1:
        raise UnfitError("steps are counted, not given as a share of the run; left to 'auto'")
    return int(found) if found >= 1 else SKIP


def switch(value: Any) -> bool:
    """Command lines and old files write booleans as words."""
    if isinstance(value, str) and value.lower() in {"true", "false", "yes", "no", "1", "0"}:
        return value.lower() in {"true", "yes", "1"}
    return bool(value)


def on_or_auto(value: Any) -> Any:
    return True if switch(value) else SKIP


def modules(value: Any) -> Any:
    """Names of modules, as a list or with commas; 'all' and 'all-linear' are every linear layer."""
    names = value if isinstance(value, list) else [part.strip() for part in str(value).split(",") if part.strip()]
    if len(names) == 1 and str(names[0]) in {"all", "all-linear", "all_linear"}:
        return "all-linear"
    odd = [str(name) for name in names if not str(name).replace("_", "").isalnum()]
    if odd:
        raise UnfitError(
            f"{', '.join(odd)}: names only, such as q_proj, no patterns and no paths; every linear layer is used"
        )
    return [str(name) for name in names]


OPTIMIZERS = {
    "adamw": "adamw",
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw_apex_fused": "adamw",
    "flash_adamw": "adamw",
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
    "ao_adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "sgd": "sgd",
}


def optimizer(value: Any) -> Any:
    name = str(value).removeprefix("OptimizerNames.").lower()
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    if name in {"paged_adamw_32bit", "paged_adamw"}:
        return Changed("adamw", "its state is not paged; an adapter's state is small (paged_adamw_8bit is paged)")
    raise UnfitError("there are adamw, adamw_8bit, paged_adamw_8bit, adafactor and sgd; adamw is used")


SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup")


def scheduler(value: Any) -> Any:
    name = str(value).removeprefix("SchedulerType.").lower()
    if name in SCHEDULERS:
        return name
    return Changed("cosine", f"there are {', '.join(SCHEDULERS)}; cosine is the nearest")


INITS = {"true": "default", **{name: name for name in ("default", "gaussian", "pissa", "olora", "loftq")}}


def lora_init(value: Any) -> Any:
    name = str(value).lower()
    if name.startswith("pissa_niter"):
        return Changed("pissa", "the decomposition is exact, not by iterations")
    if name in INITS:
        return INITS[name]
    raise UnfitError(f"there are {', '.join(sorted(set(INITS.values())))}; default is used")
