"""The settings' reference: every environment variable of the control plane."""

from pydantic_core import PydanticUndefined

from api.reference.tables import WRITTEN, page, table
from orchestrator.settings import PREFIX, Settings


def render_settings() -> str:
    lines = ["# Settings reference", "", WRITTEN, ""]
    lines += [
        "Environment variables of the API and the scheduler. One that begins with `TUNEPOOL_` and is not here is "
        "refused, "
        'so that a typing mistake does not pass in silence. Lists are JSON: `\'["a", "b"]\'`. '
        "[Running it](../running.md) says which ones you need.",
        "",
    ]
    rows = [
        (f"`{PREFIX}{name.upper()}`", _default(field.default), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return page([*lines, *table(("Variable", "Default", "Meaning"), rows)])


def _default(value: object) -> str:
    if value in (PydanticUndefined, None, "", ()) or str(value) == "":
        return ""
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{text.lower() if isinstance(value, bool) else text}`"
