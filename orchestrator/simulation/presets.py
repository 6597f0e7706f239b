"""Rules by name, for comparisons: what production does by default, and with turns (decision 0017)."""

from orchestrator.domain.scheduling.facts import Rules

DEFAULT = Rules()
TURNS = Rules(turns_hours=(1.0, 8.0))
