"""Rules by name, for comparisons: what production does by default, and with turns (decision 0017)."""

from orchestrator.domain.scheduling.facts import Rules

DEFAULT = Rules()
TURNS = Rules(turns_hours=(1.0, 8.0))
"""For whole devices and jobs of minutes to days."""

SHORT_TURNS = Rules(turns_hours=(0.1, 0.4, 1.6), turns_spare_larger=True)
"""For parts of devices of mixed sizes: a job attains little in an hour, and a large one its levels in minutes, after
which every small one could stop it (decision 0020)."""
