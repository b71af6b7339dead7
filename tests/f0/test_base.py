"""Names of predictors, what they stand for, and that every setting reaches every one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from svc.config import (
    ENSEMBLE_MEMBERS,
    F0_PREDICTORS,
    SINGLE_PREDICTORS,
    check_f0_predictor,
    ensemble_members,
)
from svc.errors import ConfigError, MissingDependencyError, MissingFileError
from svc.f0 import PREDICTOR_NAMES, build_f0_predictor, resolve_f0_predictor
from svc.f0.ensemble import EnsemblePredictor
from svc.f0.swift import swift_asset

Wave = npt.NDArray[np.float32]
BUILT = [name for name in SINGLE_PREDICTORS if name != "rmvpe"]  # it has no weights here
if swift_asset() is None:
    BUILT.remove("swift")
needs_swift = pytest.mark.skipif(swift_asset() is None, reason="swift-f0 is not installed")


def test_all_six_of_the_original_and_ours() -> None:
    assert PREDICTOR_NAMES == F0_PREDICTORS
    assert {"pm", "dio", "harvest", "crepe", "rmvpe", "fcpe"} < set(SINGLE_PREDICTORS)
    assert set(F0_PREDICTORS) - set(SINGLE_PREDICTORS) == {"ensemble", "auto"}
    for name in BUILT:
        assert build_f0_predictor(name).name == name


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("pm", ()),
        ("auto", ()),
        ("ensemble", ENSEMBLE_MEMBERS),
        ("ensemble:fcpe+crepe-tiny+pm", ("fcpe", "crepe-tiny", "pm")),
        ("ensemble:dio+pm", ("dio", "pm")),
    ],
)
def test_members(name: str, members: tuple[str, ...]) -> None:
    assert ensemble_members(name) == members
    assert check_f0_predictor(name) == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "harvset",
            r'unknown F0 predictor "harvset"; did you mean "harvest"\?; available: pm, dio',
        ),
        ("", 'unknown F0 predictor ""'),
        ("ensemble:fcpe+harvset", 'unknown F0 predictor "harvset"; did you mean "harvest"'),
        ("ensemble:fcpe+auto", 'unknown F0 predictor "auto"'),
        ("ensemble:", 'unknown F0 predictor ""'),
        ("ensemble:fcpe", "two or more different predictors, e.g. ensemble:fcpe"),
        ("ensemble:fcpe+pm+fcpe", "two or more different predictors"),
    ],
)
def test_what_is_no_predictor(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_f0_predictor(name)


def test_auto_is_an_ensemble_with_swift_where_that_is_installed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "svc.f0")
    monkeypatch.setattr("svc.f0.base.swift_asset", lambda: Path("model.onnx"))
    assert resolve_f0_predictor("auto") == resolve_f0_predictor("ensemble")
    assert resolve_f0_predictor("ensemble") == f"ensemble:{'+'.join(ENSEMBLE_MEMBERS)}"
    monkeypatch.setattr("svc.f0.base.swift_asset", lambda: None)
    assert resolve_f0_predictor("auto") == "ensemble:fcpe+crepe-tiny+dio"
    assert resolve_f0_predictor("pm") == "pm"
    built = build_f0_predictor("auto")
    assert isinstance(built, EnsemblePredictor)
    assert built.name == "ensemble:fcpe+crepe-tiny+dio"
    assert "auto: ensemble:fcpe+crepe-tiny+dio" in caplog.text


def test_what_is_absent_is_an_error_also_within_an_ensemble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rmvpe", "ensemble:pm+rmvpe"):
        with pytest.raises(MissingFileError, match=r"rmvpe\.pt is missing"):
            build_f0_predictor(name, pretrain_dir=tmp_path)
    monkeypatch.setattr("svc.f0.swift.swift_asset", lambda: None)
    for name in ("swift", "ensemble"):
        with pytest.raises(MissingDependencyError, match=r"svc\[swift\]"):
            build_f0_predictor(name)


def test_settings_reach_every_predictor() -> None:
    rates = {"sampling_rate": 32000, "hop_length": 320, "f0_min": 60.0, "f0_max": 900.0}
    for name in [*BUILT, "ensemble:dio+pm"]:
        for compat in (False, True):
            settings = build_f0_predictor(name, **rates, compat=compat).settings  # type: ignore[arg-type]
            assert settings.compat == compat
            assert {key: getattr(settings, key) for key in rates} == rates


def test_thresholds() -> None:
    """Each method has its own usual one; a given one reaches it, and every member."""
    for name in set(BUILT) - {"swift"}:
        assert build_f0_predictor(name).settings.threshold == 0.05
        assert build_f0_predictor(name, threshold=0.3).settings.threshold == 0.3
    ensemble = build_f0_predictor("ensemble:fcpe+pm+crepe-tiny", threshold=0.3)
    assert isinstance(ensemble, EnsemblePredictor)
    assert [member.settings.threshold for member in ensemble.members] == [0.3] * 3
    with pytest.raises(ConfigError, match=r"threshold must lie in 0\.\.1"):
        build_f0_predictor("ensemble:fcpe+pm", threshold=2.0)


@needs_swift
def test_thresholds_with_swift() -> None:
    assert build_f0_predictor("swift").settings.threshold == 0.5
    assert build_f0_predictor("swift", threshold=0.3).settings.threshold == 0.3
    ensemble = build_f0_predictor("ensemble:fcpe+swift")
    assert isinstance(ensemble, EnsemblePredictor)
    assert [member.settings.threshold for member in ensemble.members] == [0.05, 0.5]


@pytest.mark.parametrize("name", sorted(set(BUILT) - {"pm", "dio", "harvest", "crepe"}))
def test_a_threshold_is_not_ignored_after_the_first_use(name: str, shared: Path) -> None:
    """The original keeps the predictor it made first, whatever is asked for later (spec_f0 10.2).

    Built anew in one process, each has its own.
    """
    from svc.audio.io import read_audio

    wav, sr = read_audio(shared / "audio" / "singing" / "martin" / "note_G3-3.flac")
    levels = (0.05, 0.5, 0.9, 0.05)
    voiced = [
        float(build_f0_predictor(name, sampling_rate=sr, threshold=level)(wav).uv.sum())
        for level in levels
    ]
    assert voiced[0] > voiced[1] > voiced[2]
    assert voiced[3] == voiced[0]


@pytest.mark.parametrize("name", [*BUILT, "ensemble:fcpe+crepe-tiny+dio"])
def test_the_range_is_honoured(voice: Callable[..., Wave], name: str) -> None:
    """A tone inside the range is found, above 1100 Hz too where the range is wider; of one outside
    no pitch outside is reported (a harmonic or a part of it inside may be).
    """
    seconds = np.arange(44100) / 44100
    # fcpe's net hears nothing above 1080 Hz.
    highest = 1050.0 if name.startswith(("fcpe", "ensemble")) else 1200.0
    for hz, low, high in ((highest, 400.0, 1300.0), (75.0, 60.0, 300.0)):
        vibrato = hz * (1 + 0.005 * np.sin(2 * np.pi * 5 * seconds))
        wav = voice(vibrato)
        found = build_f0_predictor(name, f0_min=low, f0_max=high)(wav)
        assert found.uv.mean() > 0.8
        assert abs(1200 * np.log2(np.median(found.f0[found.uv > 0]) / hz)) < 20
        for other in ((2.2 * hz, 4 * hz), (0.4 * hz, 0.8 * hz)):
            if other[0] < 30 or other[1] > 2000:
                continue
            track = build_f0_predictor(name, f0_min=other[0], f0_max=other[1])(wav)
            heard = track.f0[track.uv > 0]
            assert np.all((heard > other[0] * 0.99) & (heard < other[1] * 1.01))
