"""A pool as a YAML file: devices, teams, rules of the scheduler, and what the machinery takes (docs/simulation.md)."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from orchestrator.domain.scheduling.facts import WHOLE_DEVICE_MICROS, Rules, SharedDevice, TeamTerms
from orchestrator.simulation.workload import Timing

GIB = 1024**3
_SECTIONS = {"devices", "teams", "rules", "timing"}
_DEVICE_KEYS = {"type", "gib", "count", "per_node", "weight", "kind"}
_TEAM_KEYS = {"name", "guarantee", "ceiling", "weight"}
_NAMED_BY = {"devices": "type", "teams": "name"}


class PoolFileError(ValueError):
    """The file or a change of it says something that makes no pool. The message names the place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolFile:
    """A pool to simulate. `source` is what was read, for changes of it."""

    devices: tuple[SharedDevice, ...]
    teams: tuple[TeamTerms, ...]
    rules: Rules
    timing: Timing
    source: Mapping[str, Any]


def read_pool(path: Path) -> PoolFile:
    """Raises PoolFileError, and OSError when there is no such file."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise PoolFileError(f"{path} is not YAML: {error}") from error
    return parse_pool(found)


def parse_pool(source: Any) -> PoolFile:
    """A pool from what a YAML file holds. Raises PoolFileError."""
    if not isinstance(source, Mapping) or not source.get("devices"):
        raise PoolFileError("a pool has a list `devices`")
    _refuse_unknown(source, _SECTIONS, "the file")
    devices = [device for each in source["devices"] for device in _devices(each)]
    return PoolFile(
        devices=tuple(devices),
        teams=tuple(_team(each) for each in source.get("teams") or ()),
        rules=_of_fields(Rules, source.get("rules") or {}, "rules"),
        timing=_of_fields(Timing, source.get("timing") or {}, "timing"),
        source=source,
    )


def change_pool(pool: PoolFile, changes: list[str]) -> PoolFile:
    """The pool with changes such as `devices.g24.count=+4`, `teams.b.guarantee=3` or `rules.placement=fgd`.

    A value that begins with + or - is added to what is there. A device type or team that is not there is added. Raises
    PoolFileError.
    """
    source = deepcopy(dict(pool.source))
    for change in changes:
        path, is_given, text = change.partition("=")
        parts = path.strip().split(".")
        if not is_given or len(parts) not in {2, 3} or parts[0] not in _SECTIONS:
            raise PoolFileError(f"{change!r} is not SECTION.KEY=VALUE or SECTION.NAME.KEY=VALUE")
        _set(_place(source, parts, change), parts[-1], text.strip())
    return parse_pool(source)


def _place(source: dict[str, Any], parts: list[str], change: str) -> dict[str, Any]:
    """The mapping that the change is about."""
    if len(parts) == 2:
        if parts[0] in _NAMED_BY:
            raise PoolFileError(f"{change!r} does not say which of {parts[0]}")
        section = source.setdefault(parts[0], {})
        assert isinstance(section, dict)
        return section
    named_by = _NAMED_BY.get(parts[0])
    if named_by is None:
        raise PoolFileError(f"{change!r} has a name too many")
    listed: list[dict[str, Any]] = source.setdefault(parts[0], [])
    for each in listed:
        if each.get(named_by) == parts[1]:
            return each
    listed.append({named_by: parts[1]})
    return listed[-1]


def _set(place: dict[str, Any], key: str, text: str) -> None:
    value = yaml.safe_load(text)
    if text[:1] in {"+", "-"} and isinstance(value, int | float):
        value = (place.get(key) or 0) + value
    place[key] = value


def _devices(each: Any) -> list[SharedDevice]:
    if not isinstance(each, Mapping) or "type" not in each or "gib" not in each:
        raise PoolFileError(f"a device has `type` and `gib`, and {each!r} has not")
    _refuse_unknown(each, _DEVICE_KEYS, f"the device {each['type']}")
    count, per_node = int(each.get("count", 1)), int(each.get("per_node", 8))
    if count < 0 or per_node < 1 or each["gib"] <= 0:
        raise PoolFileError(f"the device {each['type']} has a size or number that cannot be")
    return [
        SharedDevice(
            device_id=f"{each['type']}-{number // per_node}/{number % per_node}",
            node_name=f"{each['type']}-{number // per_node}",
            device_type=str(each["type"]),
            kind=each.get("kind", "cuda"),
            usable_bytes=int(each["gib"] * GIB),
            weight_micros=round(each.get("weight", 1.0) * WHOLE_DEVICE_MICROS),
        )
        for number in range(count)
    ]


def _team(each: Any) -> TeamTerms:
    if not isinstance(each, Mapping) or "name" not in each:
        raise PoolFileError(f"a team has a `name`, and {each!r} has not")
    _refuse_unknown(each, _TEAM_KEYS, f"the team {each['name']}")
    ceiling = each.get("ceiling")
    return TeamTerms(
        team_id=str(each["name"]),
        name=str(each["name"]),
        guarantee_micros=round(each.get("guarantee", 0.0) * WHOLE_DEVICE_MICROS),
        ceiling_micros=None if ceiling is None else round(ceiling * WHOLE_DEVICE_MICROS),
        weight=float(each.get("weight", 1.0)),
    )


def _of_fields(kind: Any, given: Any, where: str) -> Any:
    if not isinstance(given, Mapping):
        raise PoolFileError(f"`{where}` holds keys and values")
    _refuse_unknown(given, {each.name for each in fields(kind)}, where)
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})


def _refuse_unknown(given: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = set(given) - known
    if unknown:
        raise PoolFileError(
            f"{where}: unknown {', '.join(sorted(map(str, unknown)))}; known: {', '.join(sorted(known))}"
        )
