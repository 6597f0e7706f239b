"""What the dashboard is made of: vendored files as they were published, and nothing inline or foreign in a page."""

import hashlib
import json
import re
from pathlib import Path

import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from api.app import describe_app
from api.dashboard.assets import FOLDER, load_assets
from api.dashboard.forms import PageRoute
from api.dashboard.rendering import CONTENT_POLICY, TEMPLATES, build_environment

VENDOR = FOLDER / "vendor"
MANIFEST = json.loads((VENDOR / "manifest.json").read_text())
TEMPLATE_FILES = sorted(TEMPLATES.rglob("*.html"))
MODULES = sorted((FOLDER / "js").glob("*.js"))


def test_every_vendored_file_is_the_published_one_and_has_its_licence() -> None:
    hashes = {name: digest for package in MANIFEST for name, digest in package["files"].items()}
    assert {path.name for path in VENDOR.iterdir()} == {*hashes, "manifest.json"}
    for name, digest in hashes.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name
    for package in MANIFEST:
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"])
        assert any("LICENSE" in name for name in package["files"])


@pytest.mark.parametrize("path", TEMPLATE_FILES, ids=[path.name for path in TEMPLATE_FILES])
def test_a_template_compiles_and_holds_no_inline_code_and_no_foreign_host(path: Path) -> None:
    text = path.read_text()
    build_environment(load_assets()).get_template(path.relative_to(TEMPLATES).as_posix())
    assert not re.search(r"\sstyle\s*=|\son[a-z]+\s*=|javascript:|hx-on|<style|hx-vals=.js", text)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text))
    assert not re.search(r"https?://|//cdn", text)


@pytest.mark.parametrize("path", MODULES, ids=[path.name for path in MODULES])
def test_a_module_makes_elements_from_text_only(path: Path) -> None:
    assert not re.search(
        r"innerHTML\s*=|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", path.read_text()
    )


def test_the_policy_lets_in_nothing_inline_and_nothing_foreign() -> None:
    assert "default-src 'none'" in CONTENT_POLICY
    assert "unsafe" not in CONTENT_POLICY
    assert "http" not in CONTENT_POLICY


def test_an_address_changes_with_the_bytes_and_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("a {}")
    first = load_assets(tmp_path)
    (tmp_path / "a.css").write_text("b {}")
    second = load_assets(tmp_path)
    assert first.url("a.css") != second.url("a.css")
    assert second.find(first.build, "a.css") is None
    with pytest.raises(KeyError):
        second.url("b.css")


def test_whatever_changes_something_outside_the_api_checks_its_form() -> None:
    """A session's cookie opens /v1 for reading only, so every other writing route must be one that asks for a token."""
    for found in iter_route_contexts(describe_app().routes):
        if set(found.methods or ()) <= {"GET", "HEAD"} or str(found.path).startswith("/v1/"):
            continue
        route = found.route if hasattr(found, "route") else found
        assert isinstance(route, APIRoute)
        assert isinstance(route, PageRoute), found.path
