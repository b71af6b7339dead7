"""Flags of `svc infer`; its conversions are tested in tests/conversion."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from svc.cli import infer
from svc.cli.main import main
from svc.conversion.options import InferOptions
from svc.conversion.results import ResultOptions
from svc.devices import PRECISIONS

ORIGINAL_FLAGS: dict[str, tuple[str, Any]] = {
    "-m": ("--model_path", None),
    "-c": ("--config_path", None),
    "-cl": ("--clip", 0),
    "-n": ("--clean_names", ["x"]),
    "-t": ("--trans", [0]),
    "-s": ("--spk_list", None),
    "-a": ("--auto_predict_f0", False),
    "-cm": ("--cluster_model_path", ""),
    "-cr": ("--cluster_infer_ratio", 0),
    "-lg": ("--linear_gradient", 0),
    "-f0p": ("--f0_predictor", "pm"),
    "-eh": ("--enhance", False),
    "-shd": ("--shallow_diffusion", False),
    "-usm": ("--use_spk_mix", False),
    "-lea": ("--loudness_envelope_adjustment", 1),
    "-fr": ("--feature_retrieval", False),
    "-dm": ("--diffusion_model_path", None),  # the newest in logs/44k/diffusion
    "-dc": ("--diffusion_config_path", None),
    "-ks": ("--k_step", 100),
    "-se": ("--second_encoding", False),
    "-od": ("--only_diffusion", False),
    "-sd": ("--slice_db", -40),
    "-d": ("--device", None),
    "-ns": ("--noice_scale", 0.4),
    "-p": ("--pad_seconds", 0.5),
    "-wf": ("--wav_format", "flac"),
    "-lgr": ("--linear_gradient_retain", 0.75),
    "-eak": ("--enhancer_adaptive_key", 0),
    "-ft": ("--f0_filter_threshold", None),  # 0.05, the original's, but for swift
}


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    infer.add_arguments(parser)
    return parser


def actions(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {flag: action for action in parser._actions for flag in action.option_strings}


@pytest.mark.parametrize("short", ORIGINAL_FLAGS)
def test_every_original_flag_has_its_names_and_default(
    parser: argparse.ArgumentParser, short: str
) -> None:
    long, default = ORIGINAL_FLAGS[short]
    known = actions(parser)
    assert known[short] is known[long] is known["--" + long[2:].replace("_", "-")]
    assert getattr(parser.parse_args(["-n", "x"]), known[short].dest) == default


@pytest.mark.parametrize("short", ORIGINAL_FLAGS)
def test_every_spelling_gives_the_same_value(parser: argparse.ArgumentParser, short: str) -> None:
    long, _ = ORIGINAL_FLAGS[short]
    action = actions(parser)[short]
    value = [] if action.nargs == 0 else ["7"]
    base = [] if short == "-n" else ["-n", "x"]
    texts = [short, long, long.replace("_", "-").replace("--", "--", 1)]
    values = [getattr(parser.parse_args([*base, text, *value]), action.dest) for text in texts]
    assert values[0] == values[1] == values[2] != action.default


def test_our_flags(parser: argparse.ArgumentParser) -> None:
    known = actions(parser)
    assert known["--noise_scale"] is known["--noise-scale"] is known["--noice_scale"]
    for flag in (
        "--encoder_path",
        "--encoder_precision",
        "--output_dir",
        "--output",
        "--seed",
        "--f0_min",
        "--f0_max",
        "--recursive",
        "--skip_existing",
        "--skip-existing",
        "--channels",
        "--bit_depth",
        "--rate",
        "--no_tags",
        "--no_manifest",
        "--json",
        "--cache_dir",
        "--cache_gb",
        "--no_cache",
    ):
        assert flag in known
    args = parser.parse_args(["-n", "x"])
    assert (args.encoder_path, args.encoder_precision) == (None, "fp32")
    assert known["--encoder_precision"].choices == PRECISIONS
    assert (args.seed, args.output_dir, args.f0_min, args.f0_max) == (
        52468,
        Path("results"),
        50,
        1100,
    )


def test_defaults_are_those_of_the_library(parser: argparse.ArgumentParser) -> None:
    args = parser.parse_args(["-n", "x"])
    assert infer._options(args) == InferOptions()
    assert infer._results(args) == ResultOptions()


def test_a_song_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["infer"])
    assert caught.value.code == 2
    assert "--clean_names" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-od", "-shd"], "-od/--only_diffusion and -shd/--shallow_diffusion"),
        (["-se"], "-se/--second_encoding needs -shd"),
        (["-eh", "-shd"], "-eh/--enhance and diffusion (-shd or -od)"),
        (["-eh", "-od"], "-eh/--enhance and diffusion (-shd or -od)"),
        (["-eh", "-m", "."], "-eh/--enhance and an exported voice"),
        (["-eh", "-eak", "25"], "-eak/--enhancer_adaptive_key is 25: give a number from -24 to 24"),
        (
            ["-shd"],
            "there is no diffusion model model_*.pt in logs/44k/diffusion; name one with -dm",
        ),
        (["-shd", "-dm", "gone.pt"], "gone.pt is not there; check -dm"),
        (["-cr", "1.5"], "-cr/--cluster_infer_ratio is 1.5: give a number from 0 to 1"),
        (["--protect", "-1", "-cr", "1"], "--protect is -1: give a number from 0 to 1"),
        (["--keep_breath", "2"], "--keep_breath is 2: give a number from 0 to 1"),
        (["--keep_unvoiced", "nan"], "--keep_unvoiced is nan: give a number from 0 to 1"),
        (["-shd", "-ks", "0"], "-ks/--k_step is 0: give a whole number from 1 up"),
        (["--backend", "tensorrt"], '--backend "tensorrt" is unknown: choose auto, torch, onnx'),
        (["--precision", "int8"], '--precision "int8" is unknown: choose auto, fp32, bf16, fp16'),
        (["--backend", "onnx", "--compile"], "--compile and --backend onnx: only torch's nets"),
        (["--backend", "torch", "-m", "."], "--backend torch: . is a folder, an exported voice"),
        (["--precision", "bf16", "-m", "."], "--precision bf16: . is a folder, an exported voice"),
        (["--compile", "-m", "."], "--compile: . is a folder, an exported voice"),
    ],
)
def test_flags_that_cannot_work_are_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)  # neither model nor song: the answer comes before any work
    code = main(["infer", "-n", "song.wav", *flags])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("svc: error: ")
    assert " ".join(message.split()) in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        (["-ks", "50"], "-ks has no effect without -shd"),
        (["-od", "-m", "G.pth"], "-m and -c have no effect with -od"),
        (["-dm", "x.pt"], "-dm, -dc, "),
        (["--vocoder", "model"], "--vocoder has no effect without -shd, -od or -eh"),
        (["-eak", "3"], "-eak has no effect without -eh"),
        (["--max_chunk", "5", "-cl", "3"], "--max_chunk has no effect with -cl or --compat"),
        (["--max_chunk", "5", "--compat"], "--max_chunk has no effect with -cl or --compat"),
        (["-od", "-ns", "0"], "-ns has no effect with -od"),
        (["-fr"], "-cm, -fr, "),
        (["-cm", "kmeans.pt"], "-cm, -fr, "),
        (["-s", "alice", "--spk_mix", "alice=1"], "-s has no effect"),
        (["--no_cache", "--cache_gb", "1"], "--cache_dir and --cache_gb have no effect"),
    ],
)
def test_flags_without_effect_are_told(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    note: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["infer", "-n", "song.wav", *flags]) == 2  # there is no model
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"svc: note: {note}")
    assert second.startswith("svc: error: ")
