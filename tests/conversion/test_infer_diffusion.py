"""Diffusion in a conversion: going over a voice, singing alone, mixes, and what is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import read_audio
from svc.config import SPEECH_ENCODER_DIMS
from svc.conversion import Converter, InferOptions
from svc.conversion.mix_files import parse_mix
from svc.conversion.onnx_parts import GraphRefiner
from svc.conversion.options import DiffusionChoice, HearingChoice
from svc.conversion.refine import Refiner, Stretch, load_refiner
from svc.f0.range_files import write_ranges
from svc.f0.voice_range import VoiceRange


def _beside(path: Path) -> Any:
    """Import a module that lies beside this one."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MAKE: Any = _beside(Path(__file__).with_name("small_diffusion.py"))
SR = 44100
SPEAKERS = {"alice": 0, "bob": 1}
CPU = torch.device("cpu")


@pytest.fixture
def choice(tmp_path: Path) -> DiffusionChoice:
    """A diffusion model of two speakers, whose ids are not those of the voice."""
    vocoder = MAKE.write_vocoder(tmp_path / "vocoder")
    speakers = {"bob": 0, "alice": 1}
    config = MAKE.diffusion_config(vocoder, speakers, encoder="whisper-ppg-tiny", width=8)
    return DiffusionChoice(
        MAKE.write_diffusion(tmp_path / "diffusion", config), method="ddim", speedup=5
    )


@pytest.fixture
def converter(
    make_converter: Callable[..., Converter],
    choice: DiffusionChoice,
    monkeypatch: pytest.MonkeyPatch,
) -> Converter:
    monkeypatch.setitem(SPEECH_ENCODER_DIMS, "whisper-ppg-tiny", 8)
    made = make_converter()
    refiner = load_refiner(choice, make_converter.config(), device=CPU)  # type: ignore[attr-defined]
    made._voice = dataclasses.replace(made.voice, refiner=refiner)  # type: ignore[type-var]
    return made


def test_diffusion_goes_over_the_voice(
    converter: Converter, make_converter: Callable[..., Converter], song: Any
) -> None:
    wav = song([(0.7, 0.5)])
    options = InferOptions(k_step=20)
    refined = converter.convert(wav, SR, "alice", options)
    assert refined.shape == wav.shape
    assert np.isfinite(refined).all()
    np.testing.assert_array_equal(refined, converter.convert(wav, SR, "alice", options))
    assert np.abs(refined - make_converter().convert(wav, SR, "alice", options)).max() > 1e-2
    for other in (InferOptions(k_step=60), InferOptions(k_step=20, seed=1)):
        assert np.abs(refined - converter.convert(wav, SR, "alice", other)).max() > 1e-3
    again = converter.convert(wav, SR, "alice", InferOptions(k_step=20, second_encoding=True))
    assert np.abs(refined - again).max() > 1e-5


def test_names_decide_who_sings_not_ids(converter: Converter) -> None:
    refiner = converter.voice.refiner  # type: ignore[attr-defined]
    units, f0, volume = torch.zeros(1, 8, 20), torch.full((1, 20), 200.0), torch.ones(1, 20)
    options = InferOptions()
    told = {}
    for name, row in {"alice": 1, "bob": 0}.items():
        told[name] = refiner.sing(
            units, f0, volume, SPEAKERS[name], options, wav=torch.zeros(10240)
        )
        direct = refiner.diffusion.condition(units.mT, f0, volume, torch.tensor([row]))
        mixed = np.zeros((20, 2), dtype=np.float32)
        mixed[:, SPEAKERS[name]] = 1.0
        columns = torch.from_numpy(refiner._columns(mixed))
        torch.testing.assert_close(
            refiner.diffusion.condition(units.mT, f0, volume, speaker_mix=columns), direct
        )
    assert (told["alice"] - told["bob"]).abs().max() > 1e-4


def test_a_mix_goes_through_diffusion(converter: Converter, song: Any) -> None:
    wav = song([(0.7, 0.5)])
    options = InferOptions(k_step=20)
    alice = converter.convert(wav, SR, "alice", options)
    one = parse_mix("alice=1,bob=0.000001", SPEAKERS)
    np.testing.assert_allclose(converter.convert(wav, SR, one, options), alice, atol=1e-2)
    even = converter.convert(wav, SR, parse_mix("alice=1,bob=1", SPEAKERS), options)
    assert np.isfinite(even).all()
    assert np.abs(even - alice).max() > 1e-3


def test_a_mix_with_a_diffusion_model_of_one_speaker(
    make_converter: Callable[..., Converter],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    song: Any,
) -> None:
    """Its config may name any ids: it has no table of speakers."""
    monkeypatch.setitem(SPEECH_ENCODER_DIMS, "whisper-ppg-tiny", 8)
    config = MAKE.diffusion_config(
        MAKE.write_vocoder(tmp_path / "vocoder"),
        SPEAKERS, encoder="whisper-ppg-tiny", width=8, n_spk=1,
    )  # fmt: skip
    choice = DiffusionChoice(
        MAKE.write_diffusion(tmp_path / "diffusion", config), method="ddim", speedup=5
    )
    converter = make_converter()
    refiner = load_refiner(choice, make_converter.config(), device=CPU)  # type: ignore[attr-defined]
    converter._voice = dataclasses.replace(converter.voice, refiner=refiner)  # type: ignore[type-var]
    wav = song([(0.4, 0.5)])
    made = converter.convert(wav, SR, parse_mix("alice=1,bob=1", SPEAKERS), InferOptions(k_step=20))
    assert np.isfinite(made).all()
    facts = types.SimpleNamespace(n_speakers=1, speakers=SPEAKERS)
    graphs = types.SimpleNamespace(facts=facts, speakers=SPEAKERS)
    weights = np.full((3, 2), 0.5, np.float32)
    np.testing.assert_array_equal(GraphRefiner._columns(graphs, weights), np.zeros((3, 1)))  # type: ignore[arg-type]


@pytest.fixture
def two(tmp_path: Path, save_voice: Any, make_config: Any) -> Path:
    """A voice of two speakers on units 384 wide, with its diffusion model where it is looked for."""
    config = dataclasses.replace(make_config(n_speakers=2), spk=SPEAKERS)
    (tmp_path / "two").mkdir()
    model: Path = save_voice(tmp_path / "two", config)
    vocoder = MAKE.write_vocoder(tmp_path / "vocoder")
    fitting = MAKE.diffusion_config(vocoder, SPEAKERS, encoder="whisper-ppg-tiny", width=384)
    MAKE.write_diffusion(tmp_path / "two" / "diffusion", fitting)
    return model


FAST = ("--diffusion_method", "ddim", "--diffusion_speedup", "10", "-wf", "wav")


def test_diffusion_alone(two: Path, song: Any, stub_encoder: None) -> None:
    wav = song([(0.5, 0.5), (0.6, 0.0), (0.5, 0.4)])
    choice = DiffusionChoice(two.parent / "diffusion" / "model_100.pt", method="ddim", speedup=100)
    hearing = HearingChoice(device="cpu")
    with Converter.from_files(None, choice=hearing, diffusion=choice) as converter:
        assert converter.speakers == SPEAKERS
        sung = converter.convert(wav, SR, "alice")
        assert sung.shape == wav.shape
        assert np.abs(sung).max() > 1e-3
        np.testing.assert_array_equal(sung, converter.convert(wav, SR, "alice"))
        mixed = converter.convert(wav, SR, parse_mix("alice=1,bob=1", converter.speakers))
        assert np.abs(mixed - sung).max() > 1e-4


def test_the_command(run: Any, work: Path, two: Path, stub_encoder: None) -> None:
    """Shallow, alone, and of a mix; the names say which."""
    voice = ("-n", "song", "-m", str(two))
    results = {
        "song_0key_alice_sovdiff_pm.wav": (*voice, "-s", "alice", "-shd", "-ks", "40", "-se"),
        "song_0key_spk_mix_sovdiff_pm.wav": (*voice, "-shd", "--spk_mix", "alice=1,bob=1"),
        "song_0key_bob_diff_pm.wav": (
            *("-n", "song", "-s", "bob", "-od"),
            *("-dm", str(two.parent / "diffusion" / "model_100.pt")),
        ),
    }
    for name, flags in results.items():
        done = run(*flags, *FAST)
        assert done.code == 0, done.err
        wav, sr = read_audio(Path("results") / name)
        assert (wav.size, sr) == (SR // 2, SR)
        assert np.abs(wav).max() > 1e-3


def test_what_does_not_fit_is_refused_before_any_song_is_read(
    run: Any, work: Path, two: Path, stub_encoder: None, no_reading: None
) -> None:
    voice = ("-n", "song", "-m", str(two), "-s", "alice", "-shd")
    folder = two.parent / "diffusion"
    config = (folder / "config.yaml").read_text()
    assert (
        "k_step 2000 is more than this diffusion model was trained for"
        in run(*voice, *FAST, "-ks", "2000").error
    )
    assert "dpm-solver" in run(*voice, "-ks", "15", "--diffusion_method", "dpm-solver").error
    assert '"euler" is unknown' in run(*voice, "--diffusion_method", "euler").error
    assert "infer.speedup is 0" in run(*voice, "--diffusion_speedup", "0").error
    assert "the vocoder" in run(*voice, *FAST, "--vocoder", "gone").error
    for old, new, words in (
        ("sampling_rate: 44100", "sampling_rate: 48000", '"data.sampling_rate" is 48000'),
        ("block_size: 512", "block_size: 256", '"data.block_size" is 256, the voice has 512'),
        ("encoder: whisper-ppg-tiny", "encoder: vec768l12", '"data.encoder" is vec768l12'),
        ("alice: 0", "carol: 0", 'does not know the speaker "alice", only "carol", "bob"'),
    ):
        assert old in config
        (folder / "config.yaml").write_text(config.replace(old, new))
        assert words in run(*voice, *FAST).error
    (folder / "config.yaml").unlink()
    assert "name it with -dc" in run(*voice, *FAST).error
    for flag in ("-a", "-se"):
        (folder / "config.yaml").write_text(config)
        alone = ("-n", "song", "-s", "bob", "-od", "-dm", str(folder / "model_100.pt"))
        assert f"{flag}/--" in run(*alone, *FAST, flag).error


def test_the_vocoder_must_speak_the_same_mels(
    run: Any, work: Path, two: Path, stub_encoder: None, tmp_path: Path
) -> None:
    other = MAKE.write_vocoder(tmp_path / "other", num_mels=20)
    done = run("-n", "song", "-m", str(two), "-s", "bob", "-shd", *FAST, "--vocoder", str(other))
    assert "mel bands 16 and num_mels 20" in done.error


# ---- many stretches at a time --------------------------------------------------------------------


@pytest.mark.parametrize("refine", [True, False])
def test_many_stretches_are_sung_as_each_alone(choice: DiffusionChoice, refine: bool) -> None:
    refiner = load_refiner(choice, None, device=CPU)
    draws = torch.Generator().manual_seed(0)
    stretches = []
    for index, n_frames in enumerate((12, 30, 5, 21)):
        wav = 0.1 * torch.randn(512 * n_frames, generator=draws)
        mix = np.full((n_frames, 2), 0.5, dtype=np.float32)
        stretches.append(
            Stretch(
                torch.randn(1, 8, n_frames, generator=draws),
                torch.full((1, n_frames), 180.0 + 40 * index),
                torch.rand(1, n_frames, generator=draws),
                index % 2 if index != 1 else mix,
                wav if refine else None,
            )
        )
    options = InferOptions(k_step=40)
    alone = [
        refiner.sing(one.units, one.f0, one.volume, one.speaker, options, wav=one.wav)
        for one in stretches
    ]
    assert [len(wav) for wav in alone] == [512 * n for n in (12, 30, 5, 21)]
    for batch_frames in (None, 40, 1):  # all at once; two and two; one by one
        many = refiner.sing_many(stretches, options, batch_frames=batch_frames)
        for one, found in zip(alone, many, strict=True):
            torch.testing.assert_close(found, one, rtol=0, atol=1e-3)
    assert refiner.sing_many([], options) == []
    assert min(float(wav.std()) for wav in alone) > 1e-3


# ---- half precision ------------------------------------------------------------------------------


def test_half_precision_sings_nearly_the_same(choice: DiffusionChoice) -> None:
    n_frames = 40
    made = {}
    for precision in ("fp32", "bf16"):
        refiner: Refiner = load_refiner(
            dataclasses.replace(choice, precision=precision), None, device=CPU
        )
        draws = torch.Generator().manual_seed(0)
        made[precision] = refiner.sing(
            torch.randn(1, 8, n_frames, generator=draws),
            torch.full((1, n_frames), 220.0),
            torch.rand(1, n_frames, generator=draws),
            0,
            InferOptions(k_step=40),
            wav=0.1 * torch.randn(512 * n_frames, generator=draws),
        )
        assert made[precision].dtype == torch.float32
    away = made["bf16"] - made["fp32"]
    assert 0 < float(away.std()) < 0.03 * float(made["fp32"].std())  # 30 dB


def test_a_precision_that_there_is_not_is_refused(
    run: Any, work: Path, two: Path, stub_encoder: None, no_reading: None
) -> None:
    voice = ("-n", "song", "-m", str(two), "-s", "alice", "-shd", "-d", "cpu")
    error = run(*voice, *FAST, "--diffusion_precision", "fp16").error
    assert "--diffusion_precision fp16 needs an accelerator, and this runs on the CPU" in error
    error = run(*voice, *FAST, "--diffusion_precision", "int8").error
    assert 'precision "int8" is unknown; use fp32, bf16, fp16' in error


def test_the_command_in_half_precision(run: Any, work: Path, two: Path, stub_encoder: None) -> None:
    voice = ("-n", "song", "-m", str(two), "-s", "alice", "-shd", "-ks", "40", "-d", "cpu", *FAST)
    wavs = []
    for precision in ("fp32", "bf16"):
        done = run(*voice, "--diffusion_precision", precision, "--output", f"{precision}.wav")
        assert done.code == 0, done.err
        wavs.append(read_audio(Path(f"{precision}.wav"))[0])
    away = np.abs(wavs[0] - wavs[1]).max()
    assert 0 < away < 0.2 * np.abs(wavs[0]).max()


# ---- vocoders by name, ranges of voices ----------------------------------------------------------


def test_vocoders_side_by_side(
    run: Any, work: Path, two: Path, stub_encoder: None, tmp_path: Path
) -> None:
    MAKE.write_vocoder(Path("pretrain") / "nsf_hifigan")
    MAKE.write_vocoder(Path("pretrain") / "sweet", snake=True)
    voice = ("-n", "song", "-m", str(two), "-s", "alice")
    wavs = {}
    for name in ("nsf_hifigan", "sweet", "pretrain/sweet/model"):
        for flag in ("-shd", "-eh"):
            words = (*FAST, "-ks", "40") if flag == "-shd" else ()
            done = run(*voice, *words, flag, "--vocoder", name, "--output", "made.wav")
            assert done.code == 0, done.err
            wavs[name, flag] = read_audio(Path("made.wav"))[0]
    for flag in ("-shd", "-eh"):
        named, by_path = wavs["sweet", flag], wavs["pretrain/sweet/model", flag]
        np.testing.assert_array_equal(named, by_path)
        assert np.abs(named - wavs["nsf_hifigan", flag]).max() > 1e-3
    error = run(*voice, *FAST, "-shd", "--vocoder", "swet").error
    assert "there lie: nsf_hifigan, sweet" in error


def test_singing_alone_finds_the_range_of_the_voice(
    run: Any, work: Path, two: Path, stub_encoder: None
) -> None:
    """Beside the voice, in the folder above the diffusion model's, where svc train leaves it."""
    model = two.parent / "diffusion" / "model_100.pt"
    words = ("-n", "song", "-s", "bob", "-od", "-dm", str(model), *FAST, "-t", "auto")
    assert "-t auto needs to know which notes" in run(*words).error
    high = VoiceRange(60.0, tuple(np.geomspace(300, 700, 7)))
    write_ranges(two.parent / "voice_range.json", {"bob": high})
    done = run(*words)
    assert done.code == 0, done.err
    assert "-t " in done.out
    assert "voice" in done.out


def test_of_ranges_the_nearest_counts(tmp_path: Path, two: Path) -> None:
    from svc.conversion.companions import diffusion_ranges

    best = two.parent / "diffusion" / "best"
    best.mkdir()
    model = best / "model_100.pt"
    model.write_bytes((two.parent / "diffusion" / "model_100.pt").read_bytes())
    assert diffusion_ranges(model) == {}
    for index, folder in enumerate((two.parent, two.parent / "diffusion", best)):
        near = VoiceRange(60.0 + index, tuple(np.geomspace(300, 700, 7)))
        write_ranges(folder / "voice_range.json", {"bob": near})
        assert diffusion_ranges(model)["bob"] == near
