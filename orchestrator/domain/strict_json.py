"""JSON as RFC 8259 means it, from input that nobody vouches for.

Python's parser lets pass what breaks later: NaN, a key twice, numbers that become infinite, half of a surrogate pair,
nesting that overflows a stack. Here all of these are errors with a code, and no input raises anything else.
"""

import json
import math
import re
from typing import Any, NoReturn

MAX_DEPTH = 64
"""Deeper than any tool schema that people write; far below where parsers and printers begin to fail."""
MAX_NUMBER_DIGITS = 1000
"""Longer numbers cost quadratic time to convert."""

_HALF_PAIR_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_HALF_PAIR = re.compile("[\ud800-\udfff]")


class StrictJsonError(ValueError):
    """`code` is not_json, duplicate_key, too_deep, bad_number or lone_surrogate; `position` counts characters.

    The message names no value of the input, and of its keys at most the first characters.
    """

    def __init__(self, code: str, message: str, position: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.position = position


def parse_json(text: str) -> Any:
    """The value of one JSON text. Raises StrictJsonError, whatever the text is."""
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise StrictJsonError("not_json", error.msg, error.pos) from None
    except RecursionError:
        raise _too_deep() from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise _too_deep()
    if _HALF_PAIR_ESCAPE.search(text) and _has_half_pair(value):
        raise StrictJsonError("lone_surrogate", "a \\u escape is half of a surrogate pair, which is no character")
    return value


def show_name(text: str) -> str:
    """A key of the input for a message: quoted, escaped to ASCII and cut."""
    return json.dumps(text if len(text) <= 40 else text[:40] + "…")


def _too_deep() -> StrictJsonError:
    return StrictJsonError("too_deep", f"lists and objects are nested more than {MAX_DEPTH} deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise StrictJsonError("duplicate_key", f"the key {show_name(twice)} is in one object twice")
    return value


def _int(digits: str) -> int:
    if len(digits) > MAX_NUMBER_DIGITS:
        raise StrictJsonError("bad_number", f"a number has {len(digits)} digits")
    return int(digits)


def _float(digits: str) -> float:
    if len(digits) > MAX_NUMBER_DIGITS:
        raise StrictJsonError("bad_number", f"a number has {len(digits)} digits")
    value = float(digits)
    if math.isinf(value):
        raise StrictJsonError("bad_number", "a number is too large for a 64-bit float")
    return value


def _constant(name: str) -> NoReturn:
    raise StrictJsonError("bad_number", f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_int, parse_float=_float, parse_constant=_constant)


def _depth(value: Any) -> int:
    """How many lists and objects are inside each other; without recursion."""
    deepest = 0
    stack = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, depth)
            stack.extend((child, depth + 1) for child in (item.values() if isinstance(item, dict) else item))
    return deepest


def _has_half_pair(value: Any) -> bool:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if _HALF_PAIR.search(item):
                return True
        elif isinstance(item, dict):
            stack.extend(item)
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return False
