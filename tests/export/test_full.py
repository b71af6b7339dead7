"""The folder of profile `full`: whole, checked, described, or not there at all."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from svc import __version__
from svc.atomic import write_text
from svc.audio.frames import expand_units
from svc.checkpoint import save_checkpoint
from svc.config import (
    VocoderConfig,
    load_config,
    load_diffusion_config,
    save_config,
    save_diffusion_config,
)
from svc.config.bundle import file_sha256, read_bundle, verify_bundle
from svc.config.templates import find_template
from svc.diffusion import Unit2Mel
from svc.errors import (
    CheckpointError,
    ConfigError,
    ExportError,
    MissingFileError,
    OutputError,
    SvcError,
)
from svc.export.bundle import new_bundle
from svc.export.full import FullReport, export_full
from svc.export.full_examples import example_wave
from svc.export.full_synthesizer import example_inputs
from svc.f0.voice_range import VoiceRange
from svc.speech import build_speech_encoder
from svc.synthesizer import load_synthesizer
from svc.vocoder.nsf_hifigan import NsfHifigan

RANGE = VoiceRange.between(110.0, 440.0)
VOICE = {"speech_encoder": "vec256l9-onnx", "ssl_dim": 256}


def _beside(name: str) -> Any:
    """Import a module that is no test: pytest's way of importing tests knows no neighbours."""
    path = Path(__file__).with_name(name)
    spec = importlib.util.spec_from_file_location(f"svc_tests_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


VOICES: Any = _beside("small_voices.py")


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that is a graph of one convolution: its own export costs nothing."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    kernel = 0.05 * np.random.default_rng(0).normal(size=(256, 1, 400)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["source", "kernel"], ["channels"], strides=[320]),
            helper.make_node("Transpose", ["channels"], ["embed"], perm=[0, 2, 1]),
        ],
        "published",
        [helper.make_tensor_value_info("source", kind, [1, 1, "N"])],
        [helper.make_tensor_value_info("embed", kind, [1, "S", 256])],
        [onnx.numpy_helper.from_array(kernel, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    model.ir_version = 8
    path = tmp_path_factory.mktemp("encoder") / "vec-256-layer-9.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voice")
    config = VOICES.small_config(("alice", "bob"), **VOICE)
    path: Path = VOICES.write_voice(folder, config, ranges={"bob": RANGE})
    return path


@pytest.fixture
def export(voice: Path, encoder_file: Path) -> Callable[..., FullReport]:
    def run(output: Path, **options: Any) -> FullReport:
        return export_full(voice, output=output, **{"encoder_path": encoder_file, **options})

    return run


@pytest.fixture(scope="module")
def exported(
    voice: Path, encoder_file: Path, golden: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FullReport, list[tuple[int, int, str]]]:
    output, seen = tmp_path_factory.mktemp("out") / "alice", []
    shutil.copyfile(golden / "golden_enc_tiny_fcpe.pt", output.with_name("fcpe.pt"))
    report = export_full(
        voice,
        output=output,
        encoder_path=str(encoder_file),
        pretrain_dir=output.parent,
        f0=["fcpe"],
        progress=lambda *state: seen.append(state),
    )
    return report, seen


def test_what_is_written(
    exported: tuple[FullReport, list[tuple[int, int, str]]], voice: Path, encoder_file: Path
) -> None:
    report, seen = exported
    folder = report.folder
    names = ["synthesizer.onnx", "encoder.onnx", "f0_decoder.onnx", "f0_fcpe.onnx"]
    assert [graph.name for graph in report.graphs] == names
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "svc.json"])
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, "fcpe.pt"}
    assert seen == [(i, 4, name) for i, name in enumerate([*names, ""])]
    for graph in report.graphs:
        assert graph.bytes == (folder / graph.name).stat().st_size
        assert 0 <= graph.max_abs_error <= graph.tolerance
        assert graph.seconds > 0
    assert report.bytes == sum(graph.bytes for graph in report.graphs)

    bundle = read_bundle(folder)
    verify_bundle(folder, bundle)
    assert bundle.speakers == {"alice": 0, "bob": 1}
    assert (bundle.n_speakers, bundle.units_dim, bundle.inter_channels) == (2, 256, 8)
    assert (bundle.sampling_rate, bundle.hop_length, bundle.n_harmonics) == (8000, 64, 9)
    assert (bundle.has_auto_f0, bundle.has_volume) == (True, False)
    assert bundle.encoder.id == "vec256l9-onnx"
    assert bundle.voice_ranges == {"bob": RANGE.to_plain()}
    assert bundle.source.checkpoint == voice.name
    assert bundle.source.sha256 == file_sha256(voice)
    assert bundle.source.step == 8
    assert bundle.svc_version == __version__
    assert set(bundle.f0) == {"fcpe"}
    assert bundle.graphs["synthesizer.onnx"].opset >= 17
    assert bundle.graphs["synthesizer.onnx"].lengths == (43, 77)

    told = {prop.key: prop.value for prop in onnx.load(folder / names[0]).metadata_props}
    assert json.loads(told["speakers"]) == {"alice": 0, "bob": 1}
    assert told["sampling_rate"] == "8000"
    assert told["encoder"] == "vec256l9-onnx"
    assert told["svc_version"] == __version__


def test_the_graphs_together_sing_like_the_voice(
    exported: tuple[FullReport, list[tuple[int, int, str]]], voice: Path, encoder_file: Path
) -> None:
    folder = exported[0].folder
    wav, n_frames = example_wave(16_000), 125
    net = load_synthesizer(voice, load_config(voice.with_name("config.json")))
    encoder = build_speech_encoder("vec256l9-onnx", path=encoder_file)
    inputs = example_inputs(net, 2, n_frames)
    noise = net.draw_noise(1, n_frames, seed=3, device=torch.device("cpu"))
    inputs |= {"noise": noise.prior, "source_phase": noise.source.phase}
    inputs |= {"source_noise": noise.source.noise, "speaker_mix": torch.tensor([[0.0, 1.0]])}

    def run(name: str, feed: dict[str, Any]) -> Any:
        return onnxruntime.InferenceSession(folder / name).run(None, feed)[0]

    units = expand_units(torch.from_numpy(run("encoder.onnx", {"wav": wav.numpy()})), n_frames)
    feed = {name: x.numpy() for name, x in {**inputs, "units": units}.items()}
    asked = {name: feed[name] for name in ("units", "f0", "uv", "speaker_mix")}
    feed["f0"] = run("f0_decoder.onnx", asked)
    found = run("synthesizer.onnx", feed)
    wanted, f0 = net.infer(
        expand_units(encoder.encode(wav[0]), n_frames),
        inputs["f0"],
        inputs["uv"],
        torch.tensor([1]),
        noise_scale=0.35,
        seed=3,
        predict_f0=True,
    )
    assert np.abs(feed["f0"] - f0.numpy()).max() <= 1e-2
    # Over a second, 1e-4 Hz of difference in pitch moves the phase of the ninth harmonic by 6e-3.
    assert np.abs(found - wanted.numpy()).max() <= 2e-3
    assert wanted.abs().max() > 0.1


def test_an_exported_voice_is_not_replaced_unasked(
    exported: tuple[FullReport, list[tuple[int, int, str]]], export: Callable[..., FullReport]
) -> None:
    with pytest.raises(OutputError, match="--force"):
        export(exported[0].folder)
    assert read_bundle(exported[0].folder)


def test_a_folder_is_replaced_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "voice"
    with new_bundle(folder, force=False) as temporary:
        (temporary / "svc.json").write_text("first")
        assert not folder.exists()
    with new_bundle(folder, force=True) as temporary:
        (temporary / "svc.json").write_text("second")
        assert (folder / "svc.json").read_text() == "first"
    assert (folder / "svc.json").read_text() == "second"
    with pytest.raises(ConfigError), new_bundle(folder, force=True):
        raise ConfigError("something else")
    assert (folder / "svc.json").read_text() == "second"
    with pytest.raises(OutputError, match="--force"), new_bundle(folder, force=False):
        pytest.fail("it began")
    # Something else turned up during the export: it stays.
    other = tmp_path / "songs"
    with pytest.raises(OutputError, match="holds other files"), new_bundle(other, force=True):
        write_text(other / "song.wav", "")
    assert (other / "song.wav").exists()
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "deep", "song.wav", "songs", "svc.json", "voice",
    ]  # fmt: skip


def test_other_folders_are_never_replaced(
    export: Callable[..., FullReport], tmp_path: Path
) -> None:
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "song.wav").touch()
    with pytest.raises(OutputError, match="holds other files"):
        export(tmp_path / "songs", force=True)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file of that name"):
        export(tmp_path / "file", force=True)
    assert (tmp_path / "songs" / "song.wav").exists()


def test_a_graph_that_differs_leaves_nothing(
    export: Callable[..., FullReport], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="more than the tolerance") as caught:
        export(tmp_path / "voice", tolerance=1e-12)
    assert caught.value.exit_code == 3
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusion voice that goes with the voice, and its vocoder."""
    folder = tmp_path_factory.mktemp("diffusion")
    vocoder = VocoderConfig(
        "1", (8, 8), (16, 16), 8, (3,), ((1, 3, 5),), 8, 256, 256, 64, 8000, 40.0, None
    )
    torch.manual_seed(0)
    net = NsfHifigan(vocoder).generator
    save_checkpoint({"generator": net.state_dict()}, folder / "vocoder" / "model.pt")
    keys = dataclasses.asdict(vocoder)
    (folder / "vocoder" / "config.json").write_text(json.dumps(keys))
    config = load_diffusion_config(find_template("diffusion_template.yaml"))
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data,
            sampling_rate=8000,
            block_size=64,
            encoder="vec256l9-onnx",
            encoder_out_channels=256,
        ),
        model=dataclasses.replace(config.model, n_layers=1, n_chans=8, n_hidden=6, n_spk=2),
        vocoder=dataclasses.replace(config.vocoder, ckpt=str(folder / "vocoder" / "model.pt")),
        spk={"bob": 0, "alice": 1},
    )
    save_diffusion_config(config, folder / "config.yaml")
    model = Unit2Mel.from_config(config, n_mels=8)
    save_checkpoint({"global_step": 5, "model": model.state_dict()}, folder / "model_5.pt")
    return folder / "model_5.pt"


def test_a_diffusion_voice_and_its_vocoder_come_along(
    export: Callable[..., FullReport], diffusion: Path, tmp_path: Path
) -> None:
    report = export(tmp_path / "voice", diffusion=diffusion)
    names = [graph.name for graph in report.graphs]
    wanted = ("diffusion_condition", "diffusion_denoiser", "mel", "vocoder")
    assert names[-4:] == [f"{name}.onnx" for name in wanted]
    bundle = read_bundle(tmp_path / "voice")
    assert bundle.diffusion is not None
    assert bundle.vocoder is not None
    assert bundle.diffusion.speakers == {"bob": 0, "alice": 1}
    assert bundle.diffusion.n_speakers == 2
    assert bundle.diffusion.n_mels == bundle.vocoder.n_mels == 8
    assert bundle.diffusion.hop_length == bundle.vocoder.hop_length == 64


def other_rate(voice: Path, encoder: Path, folder: Path) -> dict[str, Any]:
    config = load_diffusion_config(find_template("diffusion_template.yaml"))
    save_diffusion_config(config, folder / "config.yaml")
    return {"diffusion": folder / "model_0.pt"}


def wrong_width(voice: Path, encoder: Path, folder: Path) -> dict[str, Any]:
    config = VOICES.spelled(load_config(voice.with_name("config.json")), ssl_dim=768)
    save_config(config, folder / "config.json")
    return {"config": folder / "config.json"}


def fusion(voice: Path, encoder: Path, folder: Path) -> dict[str, Any]:
    wanted = {"speech_encoder": "vec256l9-onnx+hubertsoft", "ssl_dim": 512}
    save_config(VOICES.small_config(**wanted), folder / "config.json")
    return {"config": folder / "config.json", "encoder_path": None}


def other_weights(voice: Path, encoder: Path, folder: Path) -> dict[str, Any]:
    save_checkpoint({"model": {"x": torch.zeros(1)}}, folder / "G_0.pth")
    return {"model": folder / "G_0.pth", "config": voice.with_name("config.json")}


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda *_: {"f0": ["pm"]}, ConfigError, '"pm" cannot be exported; use rmvpe and fcpe'),
        (lambda *_: {"tolerance": 0.0}, ConfigError, "--tolerance"),
        (lambda *_: {"model": "nowhere.pth"}, MissingFileError, "nowhere.pth"),
        (lambda *_: {"config": "nowhere.json"}, MissingFileError, "nowhere.json"),
        (lambda *_: {"encoder_path": "no.onnx"}, MissingFileError, "no.onnx"),
        (lambda *_: {"encoder_path": None}, MissingFileError, "vec-256-layer-9.onnx"),
        (lambda *_: {"f0": ["rmvpe"]}, MissingFileError, "rmvpe has no weights"),
        (lambda *_: {"diffusion": "no.pt"}, SvcError, "config.yaml"),
        (other_rate, ConfigError, '"data.sampling_rate" is 44100, the voice has 8000'),
        (lambda *_: {"vocoder": "no/model"}, MissingFileError, "no/model"),
        (wrong_width, ConfigError, "units are 256 wide"),
        (fusion, ConfigError, "cannot be joined"),
        (other_weights, CheckpointError, "G_0.pth"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(
    make: Any,
    error: type[SvcError],
    words: str,
    voice: Path,
    encoder_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "svc.export.full.new_bundle", lambda *_, **__: pytest.fail("the export had begun")
    )
    options: dict[str, Any] = {"model": voice, "encoder_path": encoder_file}
    options |= {"pretrain_dir": tmp_path, **make(voice, encoder_file, tmp_path)}
    with pytest.raises(error) as caught:
        export_full(output=tmp_path / "out", **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
