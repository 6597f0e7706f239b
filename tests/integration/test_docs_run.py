"""Every page of the documentation, run block by block against a server of its own whose workers are scripted.

What trains for real (the quickstart, the examples) is in tests/e2e.
"""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.pages import ROOT, PageRunner, all_pages, read_blocks
from tests.support.servers import ApiServer
from tests.support.trainers import working

MODEL = "smollm2-135m-instruct"
REAL = {"README.md", "quickstart.md"}
"""Pages that start the stack and train: tests/e2e/test_quickstart.py."""
PAGES = [page for page in all_pages() if page.name not in REAL and any(b.is_run for b in read_blocks(page))]
LONG = "long"
"""Jobs with this suffix run until they are asked to stop, so that a page can show pausing and waiting."""


def write_rows(path: Path, rows: int) -> None:
    messages = [
        [{"role": "user", "content": f"What is {n} and 1?"}, {"role": "assistant", "content": f"It is {n + 1}."}]
        for n in range(rows)
    ]
    path.write_text("".join(json.dumps({"messages": found}) + "\n" for found in messages))


def services_of(server: ApiServer, database_url: str) -> dict[str, str]:
    """The settings of a control plane with a PostgreSQL database of its own and the server's object store."""
    return {
        "TUNEPOOL_DATABASE_URL": database_url,
        "TUNEPOOL_S3_ENDPOINT": server.settings.s3_endpoint,
        "TUNEPOOL_S3_BUCKET": f"docs-{server.settings.s3_bucket}",
        "TUNEPOOL_S3_ACCESS_KEY": server.settings.s3_access_key,
        "TUNEPOOL_S3_SECRET_KEY": server.settings.s3_secret_key.get_secret_value(),
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_says_works(
    page: Path, api_server: ApiServer, tiny_model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    api_server.services.models.add(api_server.admin, MODEL, str(tiny_model))
    api_server.step()
    folder = tmp_path / "page"
    shutil.copytree(ROOT / "examples", folder / "examples")
    write_rows(folder / "train.jsonl", 40)
    write_rows(folder / "heldout.jsonl", 12)
    environment = {"TUNEPOOL_URL": api_server.url, "TUNEPOOL_API_KEY": api_server.admin_key, "NO_COLOR": "1"}
    if page.name == "running.md":
        environment |= services_of(api_server, request.getfixturevalue("postgres_url"))
    with working(api_server, trains=lambda spec: spec.suffix != LONG):
        PageRunner(folder, environment).run(page)
