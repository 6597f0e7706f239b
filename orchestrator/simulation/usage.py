"""What teams have used by ended attempts, kept as production keeps it: decayed, in reference-device-seconds."""

from collections.abc import Iterable
from dataclasses import replace

from orchestrator.domain.scheduling.facts import TeamTerms
from orchestrator.domain.usage import accrue, decay


class TeamUsage:
    """The terms of all teams with their usage brought up to date at each end of an attempt."""

    def __init__(self, teams: Iterable[TeamTerms], half_life_seconds: float) -> None:
        self._terms = {team.team_id: team for team in teams}
        self._half_life = half_life_seconds

    def terms(self) -> list[TeamTerms]:
        return list(self._terms.values())

    def of(self, team_id: str) -> TeamTerms:
        """The team's terms; one that nobody named has no guarantee and a weight of 1."""
        return self._terms.setdefault(team_id, TeamTerms(team_id=team_id, name=team_id))

    def book(self, team_id: str, rate_micros: int, started_at: float, ended_at: float) -> None:
        """Add an attempt that ended: the decayed integral of its rate up to its end."""
        terms = self.of(team_id)
        kept = decay(terms.usage, ended_at - terms.usage_at, self._half_life)
        added = accrue(rate_micros / 1e6, ended_at - started_at, self._half_life)
        self._terms[team_id] = replace(terms, usage=kept + added, usage_at=ended_at)
