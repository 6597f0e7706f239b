"""The reference pages of docs/reference, written from the code: the REST API, the command line, the
Python client, the settings.

A test compares the stored pages with what is rendered, so that they are never out of date.
"""

from collections.abc import Mapping
from pathlib import Path

from api.app import describe_app
from api.cli.main import app
from api.reference.commands import render_commands
from api.reference.python import render_client
from api.reference.rest import render_rest
from api.reference.settings import render_settings

FOLDER = Path("docs/reference")


def render_pages() -> Mapping[str, str]:
    """File names and their text."""
    return {
        "api.md": render_rest(describe_app().openapi()),
        "cli.md": render_commands(app),
        "python.md": render_client(),
        "settings.md": render_settings(),
    }


def write_pages(folder: Path = FOLDER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in render_pages().items():
        (folder / name).write_text(text, encoding="utf-8")
