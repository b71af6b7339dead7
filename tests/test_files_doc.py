"""docs/files.md is true: its commands parse, its table is that of the program, its Python runs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from svc.audio.formats import AUDIO_SUFFIXES, output_format
from svc.audio.io import AudioWriter, read_audio, write_audio
from svc.audio.reader import HIGHEST_SR, LOWEST_SR, MOST_CHANNELS
from svc.audio.tags import TAG_NAMES
from svc.cli.infer_report import _facts
from svc.cli.main import build_parser
from svc.conversion.channels import CHANNEL_MODES
from svc.conversion.feature_cache import DEFAULT_GB
from svc.conversion.jobs import Outcome
from svc.conversion.names import WAV_FORMATS
from svc.errors import AudioError

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
LINES = [
    line
    for block in re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)
    for line in block.splitlines()
]


def rows(text: str) -> list[list[str]]:
    """Cells of the lines that are rows of tables, without heads."""
    found = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    return [row for row in found if not row[0].startswith("---")]


@pytest.mark.parametrize("line", LINES)
def test_commands_parse(line: str) -> None:
    words = shlex.split(line.partition(">")[0], comments=True)
    assert build_parser(words[1]).parse_args(words[1:]).command == words[1]


def test_the_table_lists_every_format() -> None:
    match = re.search("<!-- formats: begin -->(.*)<!-- formats: end -->", TEXT, flags=re.S)
    assert match is not None
    table = {row[0].strip("`"): row[1:] for row in rows(match[1])[1:]}
    assert tuple(table) == WAV_FORMATS
    for name, (depths, rate, writer) in table.items():
        form = output_format(Path(f"a.{name}"))
        assert writer == ("ffmpeg" if form.by_ffmpeg else "libsndfile")
        assert ("lossy" in depths) == bool(form.lossy)
        assert set(re.findall(r"\b(?:16|24|32f)\b", depths)) == set(form.depths)
        highest = re.search(r"(\d+) kHz", rate) if form.rates else None
        assert (highest is None) == (not form.rates)
        assert highest is None or int(highest[1]) * 1000 == max(form.rates)
        if form.by_ffmpeg or form.rates:
            continue
        for sr in (8000, 44100, 96000, 192000):
            takes = True
            try:
                AudioWriter(f"a.{name}", sr)
            except AudioError:
                takes = False
            assert takes == (rate == "any" or sr <= 48000), (name, sr)


def test_the_limits_are_those_of_the_program() -> None:
    assert f"from {LOWEST_SR // 1000} to {HIGHEST_SR // 1000} kHz" in TEXT
    assert f"up to {MOST_CHANNELS} channels" in TEXT
    assert f"its size ({DEFAULT_GB:g} GB" in TEXT
    modes = [row[0].strip("`") for row in rows(TEXT) if row[0].strip("`") in CHANNEL_MODES]
    assert modes == list(CHANNEL_MODES)
    spoken = {"tracknumber": "track number", "license": "licence"}
    for name in TAG_NAMES:
        assert spoken.get(name, name) in TEXT.lower()
    (known,) = [row[0] for row in rows(TEXT) if row[1].startswith("libsndfile, which")]
    assert {f".{name}" for name in known.split(", ")} <= AUDIO_SUFFIXES


def test_json_has_the_keys_that_are_named() -> None:
    paragraph = next(line for line in TEXT.split("\n\n") if line.startswith("**JSON.**"))
    named = set(re.findall("`([a-z_]+)`", paragraph)) - {"done", "skipped", "failed"}
    assert named == set(json.loads(json.dumps(_facts(Outcome("a")))))


def test_the_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wav = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 50_000)).astype(np.float32)
    write_audio("song.wav", wav, 4000, bit_depth="24")
    Path("song.wav").rename("song.m4a")  # the content decides
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
    exec(code, {})  # noqa: S102 - the page's own example
    np.testing.assert_array_equal(
        read_audio("copy.flac", mono=False)[0], read_audio("song.m4a", mono=False)[0]
    )
