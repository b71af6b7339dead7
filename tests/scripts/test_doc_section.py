"""doc_section.py: one section of a document is replaced, everything else stays."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "svc_doc_section", ROOT / "scripts" / "doc_section.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OLD = "# Title\n\n<!-- one: begin -->\n\nold\n\n<!-- one: end -->\n\n## By hand\n\nkept\n"


def test_a_section_is_replaced_and_the_rest_stays(script):
    new = script.replace_section(OLD, "one", "\nnew | text\n\n")
    assert new == OLD.replace("old", "new | text")


def test_a_new_section_goes_to_the_end_and_is_replaced_next_time(script, tmp_path):
    write_section = script.write_section
    file = tmp_path / "doc.md"
    write_section(file, "first", "1")
    write_section(file, "second", "2")
    write_section(file, "first", "3")
    assert file.read_text() == (
        "<!-- first: begin -->\n\n3\n\n<!-- first: end -->\n\n"
        "<!-- second: begin -->\n\n2\n\n<!-- second: end -->\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        OLD.replace("<!-- one: end -->", ""),
        OLD.replace("<!-- one: begin -->", ""),
        OLD + OLD,
        "<!-- one: end -->\n<!-- one: begin -->\n",
    ],
)
def test_damaged_markers_are_an_error_and_nothing_is_written(
    script, tmp_path, text, monkeypatch, capsys
):
    file = tmp_path / "doc.md"
    file.write_text(text)
    monkeypatch.setattr(sys, "stdin", io.StringIO("new"))
    assert script.main([str(file), "one"]) == 2
    assert f'error: {file}: the section "one" needs one' in capsys.readouterr().err
    assert file.read_text() == text


@pytest.mark.parametrize("name", ["", "One", "a-->b"])
def test_a_name_that_is_no_comment_is_refused(script, name):
    with pytest.raises(ValueError, match="no name of a section"):
        script.replace_section(OLD, name, "new")


def test_both_scripts_keep_the_other_ones_section(script):
    text = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    for name in ("synthesizer", "content encoders"):
        changed = script.replace_section(text, name, "changed")
        assert changed.startswith("# Parity")
        assert changed.count("<!-- ") == 4
        assert len(changed) < len(text)
