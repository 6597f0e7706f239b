"""Changes to a job that waits."""

from typing import Annotated

from pydantic import ConfigDict, Field

from api.schemas.wire import Asked
from orchestrator.domain.priority import PriorityClass
from orchestrator.services.queue import QueueChange


class JobChange(Asked):
    """What is left out, or null, stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"priority": 10}, {"held": True}]})

    priority: Annotated[int, Field(ge=-100, le=100)] | None = None
    """Higher goes first, among the team's own jobs of the same class."""
    priority_class: PriorityClass | None = None
    """urgent goes first within the team's guarantee; idle runs on what nobody else wants."""
    held: bool | None = None
    """True holds the job back, false lets it go."""
    before: Annotated[str, Field(max_length=128)] | None = None
    """Move the job directly before this one, which must wait and be the same user's."""
    micro_batch_size: Annotated[int, Field(ge=1, le=256)] | None = None
    """Smaller ones take less memory; the rows of an optimizer step stay."""
    gradient_checkpointing: bool | None = None
    """Compute activations twice instead of keeping them: less memory, more time."""
    device_type: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Of the pool, or auto for any."""
    flexible: bool | None = None
    """Let the scheduler choose a smaller micro-batch or checkpointing when the job would have to wait otherwise."""

    def to_change(self) -> QueueChange:
        return QueueChange(
            priority=self.priority,
            priority_class=self.priority_class,
            is_held=self.held,
            before_job_id=self.before,
            micro_batch_size=self.micro_batch_size,
            gradient_checkpointing=self.gradient_checkpointing,
            device_type=self.device_type,
            flexible=self.flexible,
        )
