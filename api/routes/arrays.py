"""Arrays of jobs: one submission, many jobs, a limit on how many run at once."""

from fastapi import APIRouter

from api.dependencies import After, Arrays, Id, PageLimit, Reader, Repeats, Writer
from api.openapi import failures
from api.requests import JsonRoute
from api.schemas.arrays import ArrayChange, ArrayCreate, ArrayDetailOut, ArrayOut
from api.schemas.wire import ListPage, list_page

router = APIRouter(prefix="/v1/fine_tuning/job_arrays", tags=["Jobs"], route_class=JsonRoute)


@router.post("", responses=failures(400, 409, 413, 429), summary="Submit an array of jobs")
def create_job_array(body: ArrayCreate, caller: Writer, arrays: Arrays, repeats: Repeats) -> ArrayDetailOut:
    """Every combination of the values in `vary` becomes a job; all are accepted, or none. `param` of a refusal names
    the value at fault, such as `vary.lora.r[1]`."""
    repeat = repeats.of(body.model_dump(mode="json", exclude_unset=True))
    return ArrayDetailOut.of_detail(arrays.create(caller, body.to_variants(), body.to_terms(), repeat=repeat))


@router.get("", responses=failures(400), summary="List arrays of jobs")
def list_job_arrays(caller: Reader, arrays: Arrays, after: After = None, limit: PageLimit = 20) -> ListPage[ArrayOut]:
    """Newest first, with how many of their jobs are in each state."""
    page = arrays.list(caller, limit=limit, after=after)
    return list_page([ArrayOut.of(view) for view in page.items], has_more=page.has_more)


@router.get("/{array_id}", responses=failures(404), summary="Retrieve an array of jobs")
def get_job_array(array_id: Id, caller: Reader, arrays: Arrays) -> ArrayDetailOut:
    """With each job's state, what varies, and its best loss on the validation file so far."""
    return ArrayDetailOut.of_detail(arrays.get(caller, array_id))


@router.patch("/{array_id}", responses=failures(400, 404, 413), summary="Change how many jobs of an array run at once")
def change_job_array(array_id: Id, body: ArrayChange, caller: Writer, arrays: Arrays) -> ArrayDetailOut:
    """Jobs that run go on; the new limit holds for the next start."""
    return ArrayDetailOut.of_detail(arrays.set_max_parallel(caller, array_id, body.max_parallel))


@router.post("/{array_id}/cancel", responses=failures(404, 409), summary="Cancel an array of jobs")
def cancel_job_array(array_id: Id, caller: Writer, arrays: Arrays) -> ArrayDetailOut:
    """Cancels every job that has not ended; the others stay as they are. Safe to repeat."""
    return ArrayDetailOut.of_detail(arrays.cancel(caller, array_id))
