"""`svc infer --backend onnx`: the same voice from graphs, in a process without torch."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import read_audio, write_audio
from svc.audio.pitch import F0Track
from svc.conversion import Converter, InferOptions
from svc.conversion.compute import ComputeChoice
from svc.conversion.mix_files import parse_mix
from svc.conversion.onnx_voice import OnnxVoice
from svc.conversion.options import DiffusionChoice, HearingChoice
from svc.conversion.windows import Window
from svc.errors import ConfigError
from svc.synthesizer.output import InferenceNoise
from svc.vocoder.source import SourceNoise

pytest.importorskip("onnxruntime")

SR = 44100
SPEAKERS = {"alice": 0, "bob": 1}
WITHOUT_TORCH = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError(f"{name} is not to be imported")
sys.meta_path.insert(0, Block())
from svc.cli.main import main
code = main(sys.argv[1:])
assert "torch" not in sys.modules
sys.exit(code)
"""


def _beside(path: Path) -> Any:
    """Import a module that is no test: pytest's way of importing tests knows no neighbours."""
    spec = importlib.util.spec_from_file_location(f"svc_tests_conversion_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


MAKE: Any = _beside(Path(__file__).with_name("small_diffusion.py"))


@pytest.fixture(scope="module")
def voice_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice of two speakers with loudness, its own pitch, a diffusion model and a vocoder."""
    conftest = _beside(Path(__file__).with_name("conftest.py"))
    folder = tmp_path_factory.mktemp("two")
    config = conftest.whisper_config(n_speakers=2, vol_embedding=True)
    config = dataclasses.replace(config, spk=SPEAKERS)
    model: Path = conftest.write_voice(folder, config)
    vocoder = MAKE.write_vocoder(folder / "vocoder")
    fitting = MAKE.diffusion_config(vocoder, SPEAKERS, encoder="whisper-ppg-tiny", width=384)
    MAKE.write_diffusion(folder / "diffusion", fitting)
    return model


@pytest.fixture(scope="module")
def bundle(voice_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as graphs, made by the command."""
    from svc.cli.main import main

    out = tmp_path_factory.mktemp("exported") / "voice"
    diffusion = voice_files.parent / "diffusion" / "model_100.pt"
    words = ["-m", str(voice_files), "-o", str(out), "--f0", "fcpe", "--diffusion", str(diffusion)]
    assert main(["onnx-export", "--profile", "full", *words]) == 0
    return out


CHOICE = HearingChoice(device="cpu", f0_predictor="dio")
SHALLOW = DiffusionChoice(Path("unused"), method="ddim", speedup=10)


@pytest.fixture(scope="module")
def graphs(bundle: Path) -> Converter:
    return Converter.from_files(
        bundle, choice=CHOICE, compute=ComputeChoice("onnx"), diffusion=SHALLOW
    )


@pytest.fixture
def nets(voice_files: Path, monkeypatch: pytest.MonkeyPatch) -> Converter:
    """The torch voice, fed with the random numbers of the other one."""
    made = Converter.from_files(voice_files, choice=CHOICE)

    def draw(batch: int, n_frames: int, *, seed: int, device: torch.device) -> InferenceNoise:
        random = np.random.Generator(np.random.PCG64(seed))
        prior = random.standard_normal((batch, 8, n_frames), dtype=np.float32)
        phase = random.random((batch, 9), dtype=np.float32)
        phase[:, 0] = 0
        noise = random.standard_normal((batch, n_frames * 512, 9), dtype=np.float32)
        source = SourceNoise(torch.from_numpy(phase), torch.from_numpy(noise))
        return InferenceNoise(torch.from_numpy(prior), source)

    monkeypatch.setattr(made.voice.synthesizer, "draw_noise", draw)  # type: ignore[attr-defined]
    return made


def without_diffusion(converter: Converter) -> Converter:
    return Converter(dataclasses.replace(converter.voice, refiner=None))  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("speaker", "options"),
    [
        ("alice", InferOptions()),
        ("bob", InferOptions(transpose=3, noise_scale=0.0, loudness_envelope=0.0)),
        ("mix", InferOptions(auto_f0=True)),
    ],
)
def test_graphs_sing_what_nets_sing(
    graphs: Converter, nets: Converter, shared: Path, speaker: str, options: InferOptions
) -> None:
    """From the same random numbers, on real singing (limit: 30 times what was measured, 3e-6)."""
    wav, sr = read_audio(shared / "audio" / "singing" / "martin" / "note_G3-3.flac")
    who = parse_mix("alice=1,bob=3", SPEAKERS) if speaker == "mix" else speaker
    theirs = nets.convert(wav, sr, who, options)
    ours = without_diffusion(graphs).convert(wav, sr, who, options)
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 0.01
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_graphs_render_windows_one_by_one(graphs: Converter, rng: np.random.Generator) -> None:
    voice = graphs.voice
    wavs = [0.1 * rng.standard_normal(512 * n).astype(np.float32) for n in (30, 21)]
    mix = rng.random((21, 2), dtype=np.float32)
    options = InferOptions(k_step=10)
    first, second = voice.render_many([Window(wavs[0]), Window(wavs[1], weights=mix)], 1, options)
    np.testing.assert_array_equal(first, voice.render(wavs[0], 1, options))
    np.testing.assert_array_equal(second, voice.render(wavs[1], mix, options))
    assert voice.batch_frames == 0


def test_diffusion_of_graphs(graphs: Converter, song: Any) -> None:
    wav = song([(0.5, 0.5)])
    options = InferOptions(k_step=50)
    refined = graphs.convert(wav, SR, "alice", options)
    np.testing.assert_array_equal(refined, graphs.convert(wav, SR, "alice", options))
    assert np.isfinite(refined).all()
    plain = without_diffusion(graphs).convert(wav, SR, "alice", options)
    assert np.abs(refined - plain).max() > 1e-2
    again = graphs.convert(wav, SR, "alice", InferOptions(k_step=50, second_encoding=True))
    assert np.isfinite(again).all()
    with pytest.raises(ConfigError, match="-ks/--k_step is 2000"):
        graphs.convert(wav, SR, "alice", InferOptions(k_step=2000))


def test_diffusion_of_graphs_is_that_of_nets(
    graphs: Converter, voice_files: Path, shared: Path
) -> None:
    """The loop over graphs against the loop over nets, on the same start."""
    from svc.conversion.onnx_parts import GraphRefiner
    from svc.conversion.refine import load_refiner

    choice = dataclasses.replace(SHALLOW, model=voice_files.parent / "diffusion" / "model_100.pt")
    nets = load_refiner(choice, None, device=torch.device("cpu"))
    voice = graphs.voice
    assert isinstance(voice, OnnxVoice)
    refiner = voice.refiner
    assert isinstance(refiner, GraphRefiner)
    random = np.random.default_rng(0)
    units = random.standard_normal((384, 30)).astype(np.float32)
    f0, volume = np.full(30, 200, dtype=np.float32), np.full(30, 0.1, dtype=np.float32)
    weights = np.array([[0.25, 0.75]], dtype=np.float32)
    wav = 0.1 * random.standard_normal(30 * 512).astype(np.float32)
    noise = random.standard_normal((1, 1, MAKE.N_MELS, 30)).astype(np.float32)
    mel = nets.vocoder.mel(torch.from_numpy(wav)[None])
    expected = nets.diffusion.infer(
        torch.from_numpy(units.T)[None],
        torch.from_numpy(f0)[None],
        torch.from_numpy(volume)[None],
        speaker_mix=torch.from_numpy(weights),
        mel=mel,
        k_step=50,
        method="ddim",
        speedup=10,
        noise=torch.from_numpy(noise),
    )
    heard: list[np.ndarray] = []

    class Fixed:
        def standard_normal(self, shape: Any, dtype: Any) -> np.ndarray:
            return noise

    spy = dataclasses.replace(refiner)
    object.__setattr__(spy, "sing", lambda mel, f0, random: heard.append(mel) or wav)
    options = InferOptions(k_step=50)
    spy.refine(wav, units, f0, volume, weights, options, Fixed())  # type: ignore[arg-type]
    np.testing.assert_allclose(heard[0], expected[0].numpy(), atol=1e-3)


def test_the_exported_pitch_predictor(bundle: Path, voice_files: Path, shared: Path) -> None:
    wav, _ = read_audio(shared / "audio" / "singing" / "martin" / "note_G3-3.flac")
    tracks: list[F0Track] = []
    for model, backend in ((bundle, "onnx"), (voice_files, "torch")):
        choice = dataclasses.replace(CHOICE, f0_predictor="fcpe")
        with Converter.from_files(
            model, choice=choice, compute=ComputeChoice(backend)
        ) as converter:
            predictor = converter.voice.f0_predictor
            assert predictor is not None
            tracks.append(predictor(np.resize(wav, SR)))
    ours, theirs = tracks
    np.testing.assert_array_equal(ours.uv, theirs.uv)
    np.testing.assert_allclose(ours.f0, theirs.f0, rtol=1e-4)


def test_a_song_is_converted_in_a_process_that_cannot_import_torch(
    bundle: Path, tmp_path: Path, song: Any
) -> None:
    write_audio(tmp_path / "song.wav", song([(0.8, 0.5), (0.4, 0.0), (0.8, 0.3)]), SR)
    for flags, name in (
        (
            ["-s", "bob", "-f0p", "fcpe", "-t", "2", "--backend", "onnx"],
            "song.wav_2key_bob_sovits_fcpe.wav",
        ),
        (
            ["--spk_mix", "alice=1,bob=1", "-shd", "-ks", "30"],
            "song.wav_0key_spk_mix_sovdiff_pm.wav",
        ),
    ):
        words = ["infer", "-m", str(bundle), "-n", "song.wav", "-wf", "wav"]
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, *words, *flags, "--diffusion_method", "ddim"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        wav, sr = read_audio(tmp_path / "results" / name)
        assert (wav.size, sr) == (2 * SR, SR)
        assert np.abs(wav).max() > 1e-3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-s", "alice", "-f0p", "rmvpe"], "was exported without it; choose pm, dio"),
        (["-s", "alice", "-f0p", "crepe"], "was exported without it; choose pm, dio"),
        (["-s", "alice", "--compat"], "--compat needs --backend torch"),
        (["-s", "alice", "-c", "config.json"], "an exported voice carries its config"),
        (["-s", "alice", "--encoder_path", "x.pt"], "an exported voice carries its encoder"),
        (["-s", "alice", "-od"], "-od/--only_diffusion and --backend onnx"),
        (["-s", "alice", "-cr", "0.5", "-fr"], "there is no retrieval index in"),
        (["-s", "carol"], 'unknown speaker "carol"'),
    ],
)
def test_what_graphs_cannot_do(
    run: Any, work: Path, bundle: Path, flags: list[str], message: str
) -> None:
    done = run("-n", "song", "--backend", "onnx", "-m", str(bundle), *flags)
    assert done.code == 2
    assert message in done.error


def test_a_folder_that_is_damaged(run: Any, work: Path, bundle: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    words = ("-n", "song", "--backend", "onnx", "-m", str(broken), "-s", "alice")
    (broken / "synthesizer.onnx").write_bytes(b"x" * 100)
    assert "synthesizer.onnx" in run(*words).error
    (broken / "svc.json").write_text(json.dumps({"format": "other"}))
    assert "not the manifest of an exported voice" in run(*words).error
    (broken / "svc.json").unlink()
    assert "svc onnx-export --profile full" in run(*words).error
