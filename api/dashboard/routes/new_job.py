"""A new job: a form that shows at every key what the job would take, and how to say the same in other ways."""

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import ValidationError

from api.dashboard.forms import Form, PageRoute, read_field
from api.dashboard.rendering import go_to, render
from api.dashboard.views.job_form import PRESETS, Values, build_body, fill_from, read_values
from api.dashboard.views.memory import show_fits
from api.dashboard.views.snippets import show_job
from api.dependencies import Adapters, Estimates, Files, Jobs, Models, Pool, Previews, Reader, Writer
from api.schemas.estimates import EstimateOut
from api.schemas.files import FileOut
from api.schemas.submissions import EstimateCreate, JobCreate
from api.validation import explain_model
from orchestrator.domain.artifacts import FilePurpose
from orchestrator.domain.errors import NotFoundError, RequestError, TunepoolError, UnavailableError
from orchestrator.domain.teams import Caller
from orchestrator.services.estimates import Estimates as EstimatesService
from orchestrator.services.files import Files as FilesService
from orchestrator.services.idempotency import Marks
from orchestrator.services.previews import Previews as PreviewsService

router = APIRouter(prefix="/new", route_class=PageRoute)
CHOICES = 200
"""The most files, and the most adapters, that the form offers; more are named by their id."""
MOST_SHOWN = 5
"""Problems, and warnings, of a file beside the form; its own page has more."""


@dataclass(frozen=True)
class Choices:
    """What the form offers: names of models and device types, and usable files."""

    models: list[str]
    adapters: list[str]
    files: list[FileOut]
    device_types: list[str]


def _find_choices(caller: Reader, models: Models, adapters: Adapters, files: Files, pool: Pool) -> Choices:
    found = files.list(caller, purpose=FilePurpose.FINE_TUNE, limit=CHOICES)
    return Choices(
        models=[model.name for model in models.list(caller)],
        adapters=[adapter.name for adapter in adapters.list(caller, limit=CHOICES).items],
        files=[FileOut.of(file) for file in found.items],
        device_types=sorted({view.device.device_type for view in pool.list(caller)}),
    )


Offered = Annotated[Choices, Depends(_find_choices)]


@dataclass(frozen=True)
class CheckedFile:
    """A file of the form, with what its check found: problems and warnings, each with its line."""

    file: FileOut
    findings: Sequence[Mapping[str, Any]]
    problem_count: int


def _find_checked(caller: Caller, files: FilesService, values: Values) -> list[CheckedFile]:
    """Those of the form's files in which something was found; one that is not there is the estimate's to name."""
    found = []
    for name in ("training_file", "validation_file"):
        if name not in values:
            continue
        with suppress(NotFoundError):
            file = files.get(caller, values[name])
            report = file.report or {}
            checked = CheckedFile(
                file=FileOut.of(file),
                findings=[
                    finding for kind in ("problems", "warnings") for finding in report.get(kind, ())[:MOST_SHOWN]
                ],
                problem_count=sum(report.get("problem_counts", {}).values()),
            )
            found += [checked] if checked.findings else []
    return found


def _find_counts(caller: Caller, previews: PreviewsService, values: Values) -> dict[str, int]:
    """The training file's rows as the model counts them, when its page has counted all of them: better than a guess."""
    with suppress(TunepoolError):
        found = previews.find(caller, values.get("training_file", ""), values.get("model", ""))
        if found is not None and found.is_whole and not found.result.troubled:
            lengths = found.result.lengths
            return {
                "rows": sum(count for _, count in lengths),
                "tokens": found.result.total_tokens,
                "longest_row_tokens": found.result.longest_row_tokens,
            }
    return {}


@dataclass(frozen=True)
class Preview:
    """What would follow from the form as it is, or what is wrong with it."""

    estimate: EstimateOut | None = None
    body: dict[str, Any] | None = None
    problem: RequestError | UnavailableError | None = None
    checked: Sequence[CheckedFile] = ()


@router.get("")
def show_form(
    request: Request,
    caller: Reader,
    jobs: Jobs,
    choices: Offered,
    like: Annotated[str | None, Query(alias="from", max_length=128)] = None,
    training_file: Annotated[str, Query(max_length=128)] = "",
    model: Annotated[str, Query(max_length=512)] = "",
) -> Response:
    values = {"training_file": training_file, "model": model} if like is None else {}
    if like is not None:
        values = fill_from(jobs.get(caller, like).spec)
    return _show(request, {k: v for k, v in values.items() if v}, choices, Preview(), like=like)


@router.post("/preview")
def preview_job(
    request: Request,
    caller: Reader,
    form: Form,
    estimates: Estimates,
    files: Files,
    previews: Previews,
    choices: Offered,
) -> Response:
    """The answer to every key; without scripts, the whole page again. A preset fills its fields in."""
    values = read_values(form)
    preset = read_field(form, "preset")
    if preset in PRESETS:
        values |= PRESETS[preset][2]
    counts = _find_counts(caller, previews, values)
    preview = make_preview(caller, estimates, values, counts=counts)
    preview = replace(preview, checked=_find_checked(caller, files, values))
    if "hx-request" in request.headers:
        return render(request, "parts/preview.html", _describe_preview(request, preview))
    return _show(request, values, choices, preview)


@router.post("")
def submit_job(
    request: Request, caller: Writer, form: Form, jobs: Jobs, estimates: Estimates, choices: Offered
) -> Response:
    values = read_values(form)
    try:
        body = build_body(values)
        asked = JobCreate.model_validate(body)
        repeat = Marks(key=read_field(form, "once") or None).of(body)
        job = jobs.create(caller, asked.to_spec(), repeat=repeat)
    except ValidationError as error:
        return _refuse(request, values, choices, explain_model(error, body=body, model=JobCreate))
    except RequestError as error:
        return _refuse(request, values, choices, error)
    return go_to(request, f"/jobs/{job.job_id}")


def _refuse(request: Request, values: Values, choices: Choices, problem: RequestError) -> Response:
    return _show(request, values, choices, Preview(problem=problem), status=400)


def make_preview(caller: Caller, estimates: EstimatesService, values: Values, *, counts: Mapping[str, int]) -> Preview:
    """Nothing is created. A form that is not complete yet has no estimate and no problem. `counts` are what is known of
    the rows beside the form."""
    if "model" not in values:
        return Preview()
    try:
        body = build_body(values)
        spec = EstimateCreate.model_validate({**body, **counts}).to_spec()
        return Preview(estimate=EstimateOut.of(estimates.estimate(caller, spec)), body=body)
    except ValidationError as error:
        return Preview(problem=explain_model(error, body=body, model=EstimateCreate))
    except (RequestError, UnavailableError) as error:
        return Preview(problem=error)


def _describe_preview(request: Request, preview: Preview) -> dict[str, Any]:
    url = str(request.base_url).rstrip("/")
    return {
        "estimate": preview.estimate,
        "problem": preview.problem,
        "checked": preview.checked,
        "bars": [] if preview.estimate is None else show_fits(preview.estimate),
        "snippets": [] if preview.body is None else show_job(preview.body, url=url),
    }


def _show(
    request: Request,
    values: Values,
    choices: Choices,
    preview: Preview,
    *,
    like: str | None = None,
    status: int = 200,
) -> Response:
    page = {
        "values": values,
        "choices": choices,
        "presets": PRESETS,
        "like": like,
        "once": secrets.token_urlsafe(16),
        **_describe_preview(request, preview),
    }
    return render(request, "new_job.html", page, status=status)
