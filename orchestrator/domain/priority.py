"""The classes in which jobs queue."""

from enum import StrEnum


class PriorityClass(StrEnum):
    """`urgent` counts as such only within its team's guarantee; `idle` runs on what nobody else wants."""

    URGENT = "urgent"
    NORMAL = "normal"
    IDLE = "idle"
