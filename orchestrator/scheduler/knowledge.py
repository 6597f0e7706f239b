"""What use cases and the composition root know and loops need: passed in, because the two never import each other."""

from dataclasses import dataclass

from orchestrator.domain.sizer import Sizer
from orchestrator.scheduler.orders import DescribeModel
from orchestrator.scheduler.publish import VerifyAdapter


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    describe_model: DescribeModel
    verify_adapter: VerifyAdapter
    sizer: Sizer
