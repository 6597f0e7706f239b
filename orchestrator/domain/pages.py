"""One page of a listing, as every cursor listing hands it on."""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """`items` in the listing's order; `has_more` tells that at least one item follows the last of them."""

    items: tuple[T, ...]
    has_more: bool
