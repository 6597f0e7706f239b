"""Several jobs in one chart, and side by side."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from api.dashboard.forms import PageRoute
from api.dashboard.rendering import render
from api.dashboard.routes.jobs import MOST_COMPARED
from api.dashboard.views.jobs import show_jobs
from api.dependencies import Jobs, Reader

router = APIRouter(route_class=PageRoute)
ROWS = (
    ("epochs", "epochs"),
    ("batch_rows", "rows per step"),
    ("learning_rate", "learning rate"),
    ("max_seq_tokens", "tokens per row, at most"),
    ("lora_r", "LoRA rank"),
    ("lora_alpha", "LoRA alpha"),
    ("quantization", "quantization"),
    ("optimizer", "optimizer"),
    ("seed", "seed"),
)
"""Fields of a plan that are laid side by side."""


@router.get("/compare")
def compare_jobs(
    request: Request,
    caller: Reader,
    jobs: Jobs,
    job: Annotated[list[str] | None, Query(max_length=MOST_COMPARED)] = None,
) -> Response:
    found = show_jobs(jobs, caller, [jobs.get(caller, job_id) for job_id in dict.fromkeys(job or ())])
    rows: list[dict[str, Any]] = []
    for name, title in ROWS:
        values = [None if one.plan is None else one.plan[name] for one in found]
        rows.append({"title": title, "values": values, "differs": len(set(map(str, values))) > 1})
    return render(request, "compare.html", {"jobs": found, "rows": rows})
