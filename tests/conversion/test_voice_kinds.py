"""Every kind of voice on real singing, through the real command line: volume embedding, automatic
F0, 4.0 models, loudness envelope. What each does to the sound is measured on nets of random
weights, in which nothing but the thing that is tested is set by hand.

Their arithmetic is held to the original's arrays here and elsewhere:

==================  =========================================================================
volume embedding    parity/test_golden_nets.py[vol_embedding]; the volume itself in
                    audio/test_loudness.py and below
automatic F0        parity/test_golden_nets.py, ``auto_f0`` and ``auto_o`` of nine variants
4.0 models          parity/test_golden_nets.py[vec256l9]; that a 4.0 config is that net, below
loudness envelope   audio/test_loudness.py, ``rms_0.0`` and ``rms_0.5``; the whole way, below
==================  =========================================================================
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import read_audio, write_audio
from svc.audio.loudness import frame_volume, match_envelope
from svc.audio.pitch import F0Track, cents
from svc.audio.resample import resample
from svc.checkpoint import load_checkpoint, save_checkpoint
from svc.config import load_config
from svc.f0 import build_f0_predictor
from svc.f0.curve import FrameGrid, write_curve
from svc.synthesizer import Synthesizer

Run = Callable[..., Any]
Make = Callable[..., Any]
Change = Callable[[Synthesizer], None]
SR, HOP = 44100, 512
MODEL = Path("voice/G_100.pth")


def cut(shared: Path, name: str, start: float, end: float) -> np.ndarray:
    """Put some seconds of a recording into raw/clip.wav; returns them at the voice's rate."""
    wav, sr = read_audio(shared / "audio/singing" / name)
    wav = wav[round(start * sr) : round(end * sr)]
    write_audio("raw/clip.wav", wav, sr)
    return resample(wav, sr, SR)


@pytest.fixture
def clip(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A phrase of an alto in English, 48 kHz."""
    monkeypatch.chdir(tmp_path)
    return cut(shared, "gts_en_alto_2/EN_Alto_2_Breathy_Control.flac", 1.6, 4.0)


@pytest.fixture
def lively(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A phrase of another one in Mandarin, loud and soft."""
    monkeypatch.chdir(tmp_path)
    return cut(shared, "gts_zh_alto_1/zh01_control.flac", 1.0, 5.0)


@pytest.fixture
def voice(make_config: Make, save_voice: Make) -> Callable[..., Path]:
    """Return a function ``voice(change, **model)`` that writes an untrained voice that sings: its
    decoder lets the harmonic source through, and `change` is done to its weights.
    """

    def make(change: Change | None = None, **model: Any) -> Path:
        path: Path = save_voice(MODEL.parent, make_config(**model))
        net = Synthesizer.from_config(load_config(path.with_name("config.json")))
        net.load_state_dict(load_checkpoint(path)["model"])
        with torch.no_grad():
            post = net.dec.conv_post
            post.weight_v.sub_(post.weight_v.mean(-1, keepdim=True))  # lets no steady offset out
            post.weight_g.mul_(0.05)
            post.bias.zero_()
            net.dec.m_source.l_linear.weight.fill_(1.0)
            net.dec.conv_pre.weight_g.mul_(30.0)  # units and volume are heard beside the source
            if change is not None:
                change(net)
        whole = {"model": net.state_dict(), "iteration": 1, "optimizer": None, "learning_rate": 0}
        save_checkpoint(whole, path)
        return path

    return make


@pytest.fixture
def sing(run: Run) -> Callable[..., np.ndarray]:
    """Return a function ``sing(*flags, song="clip")`` -> the result of `svc infer` as samples."""

    def call(*flags: str, song: str = "clip") -> np.ndarray:
        done = run("-m", str(MODEL), "-n", song, "--output", "out.flac", "-ns", "0", *flags)
        assert done.code == 0, done.err
        wav, sr = read_audio("out.flac")
        assert sr == SR
        assert np.isfinite(wav).all()
        assert 0.01 < rms(wav) < 0.9
        return wav

    return call


def rms(wav: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(wav, dtype=np.float64))))


def heard(wav: np.ndarray, predictor: str = "harvest") -> F0Track:
    return build_f0_predictor(predictor)(wav)


def distance(found: F0Track, wanted: F0Track) -> np.ndarray:
    """Cents between two tracks, in the frames voiced in both."""
    n = min(len(found), len(wanted))
    both = (found.uv[:n] > 0) & (wanted.uv[:n] > 0)
    assert both.sum() > 60
    away: np.ndarray = cents(found.f0[:n][both], wanted.f0[:n][both])
    return away


def level(wav: np.ndarray, seconds: float = 1.0, step: float = 0.05) -> np.ndarray:
    """RMS in dB of windows of `seconds`, every `step` seconds."""
    size = round(seconds * SR)
    sums = np.concatenate([[0], np.cumsum(np.pad(wav.astype(np.float64) ** 2, size // 2))])
    at = np.arange(0, len(sums) - size, round(step * SR))
    decibel: np.ndarray = 10 * np.log10((sums[at + size] - sums[at]) / size + 1e-12)
    return decibel


# ------------------------------------------------------------------------------ volume embedding


def test_volume_embedding_gets_the_volume_of_the_source(
    clip: np.ndarray, voice: Make, sing: Make, monkeypatch: pytest.MonkeyPatch, stub_encoder: None
) -> None:
    seen: list[torch.Tensor] = []
    infer = Synthesizer.infer

    def spy(self: Synthesizer, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["volume"])
        return infer(self, *args, **kwargs)

    monkeypatch.setattr(Synthesizer, "infer", spy)
    voice(vol_embedding=True)
    write_audio("raw/soft.wav", clip / 4, SR)
    write_audio("raw/same.wav", clip, SR)
    flags = ("-p", "0", "-sd", "-90", "-lea", "1")
    sing(*flags, song="same")
    sing(*flags, song="soft")
    loud, soft = (volume[0].numpy() for volume in seen)
    n = len(clip) // HOP
    expected = frame_volume(torch.from_numpy(clip)[None], HOP)[0].numpy()
    # Files of 16 bits in between: half a step of rounding.
    np.testing.assert_allclose(loud[: n - 1], expected[: n - 1], atol=2e-5)
    np.testing.assert_allclose(soft[: n - 1], expected[: n - 1] / 4, atol=2e-5)
    voice()
    sing(*flags, song="same")
    assert seen[-1] is None


def test_volume_embedding_changes_what_is_sung(
    clip: np.ndarray, voice: Make, sing: Make, run: Run
) -> None:
    """The same song 12 dB softer, on the same melody, in a voice that hears the volume and in one
    that differs only by the zeros in its volume embedding.
    """
    write_audio("raw/soft.wav", clip / 4, SR)
    curve = F0Track(np.full(len(clip) // HOP, 200.0), np.ones(len(clip) // HOP))
    write_curve("c.csv", curve, FrameGrid(SR, HOP))
    change = {}
    for name, share in (("hears", 30.0), ("deaf", 0.0)):

        def tune(net: Synthesizer, share: float = share) -> None:
            assert net.emb_vol is not None
            net.emb_vol.weight.mul_(share)

        voice(tune, vol_embedding=True)
        loud, soft = (sing("--f0", "c.csv", "-sd", "-70", song=s) for s in ("clip", "soft"))
        change[name] = rms(loud - soft) / rms(loud)
    assert change["hears"] > 0.03
    assert change["hears"] > 4 * change["deaf"]


# ------------------------------------------------------------------------------ automatic F0


def test_without_the_flag_the_melody_is_the_sources(
    clip: np.ndarray, voice: Make, sing: Make
) -> None:
    voice()
    source = heard(clip, "pm")
    for semitones in (0, 5):
        away = distance(heard(sing("-t", str(semitones))), source) - 100 * semitones
        assert abs(np.median(away)) < 5
        assert np.mean(np.abs(away) < 50) > 0.9


def test_with_the_flag_the_melody_is_the_voices(
    clip: np.ndarray, voice: Make, sing: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The F0 decoder is made to think of 300 Hz, and a little of what it hears."""
    predicted: list[torch.Tensor] = []
    infer = Synthesizer.infer

    def spy(self: Synthesizer, *args: Any, **kwargs: Any) -> Any:
        wav, f0 = infer(self, *args, **kwargs)
        predicted.append(f0)
        return wav, f0

    def tune(net: Synthesizer) -> None:
        assert net.f0_decoder is not None
        net.f0_decoder.proj.weight.mul_(0.05)
        net.f0_decoder.proj.bias.fill_(2595 * math.log10(1 + 300 / 700) / 500)

    monkeypatch.setattr(Synthesizer, "infer", spy)
    voice(tune)
    flags = ("-p", "0", "-sd", "-90")
    own = heard(sing("-a", *flags))
    f0 = predicted[0][0].numpy()
    assert 250 < f0.min() < f0.max() < 400
    assert f0.std() > 0.5
    away = distance(own, F0Track(f0, np.ones(len(f0))))
    assert abs(np.median(away)) < 5
    assert np.mean(np.abs(away) < 50) > 0.9
    followed = heard(sing(*flags))
    assert np.median(np.abs(distance(own, followed))) > 400


def test_a_voice_without_the_decoder_says_so(
    clip: np.ndarray, voice: Make, run: Run, sing: Make, stub_encoder: None
) -> None:
    voice(use_automatic_f0_prediction=False)
    sing()
    done = run("-m", str(MODEL), "-n", "clip", "-a")
    assert done.code == 2
    assert "use_automatic_f0_prediction is false" in done.error


# ------------------------------------------------------------------------------ 4.0 models


LATER = {  # keys of 4.1 (spec_core 1.5): a 4.0 config has none of them
    *("n_flow_layer", "n_layers_trans_flow", "use_transformer_flow", "flow_share_parameter"),
    *("use_depthwise_conv", "use_automatic_f0_prediction", "vol_embedding", "vocoder_name"),
    *("speech_encoder", "sampling_rate", "discriminator_width", "encoder_path"),
}


def config_40(raw: dict[str, Any]) -> dict[str, Any]:
    """Take from a config what 4.0 did not know."""
    model = {key: value for key, value in raw["model"].items() if key not in LATER}
    data = {key: value for key, value in raw["data"].items() if key != "unit_interpolate_mode"}
    train = {
        key: value
        for key, value in raw["train"].items()
        if key not in ("half_type", "keep_ckpts", "all_in_mem", "vol_aug")
    }
    return {"train": train, "data": data, "model": model, "spk": raw["spk"]}


def test_a_40_config_is_the_net_of_the_reference_arrays(shared: Path, tmp_path: Path) -> None:
    """So vec256l9's arrays, which test_golden_nets.py compares, are those of 4.0 voices."""
    table = shared / "spec/tables/config_vec256l9.json"
    (tmp_path / "config.json").write_text(json.dumps(config_40(json.loads(table.read_text()))))
    old, new = load_config(tmp_path / "config.json"), load_config(table)
    assert old.model == new.model
    assert old.data.unit_interpolate_mode == "left"
    assert (old.model.ssl_dim, old.model.gin_channels, old.model.filter_channels) == (256, 256, 768)
    listing = json.loads((shared / "spec/tables/statedict_G_vec256l9.json").read_text())
    with torch.device("meta"):
        state = Synthesizer.from_config(old).state_dict()
    assert list(state) == [row[0] if isinstance(row, list) else row for row in listing]


@pytest.fixture
def content_vec(clip: np.ndarray) -> Path:
    """A small HuBERT of random weights in fairseq's form, where 4.0 looks for ContentVec."""
    source = Path(__file__).parents[1] / "speech" / "wave_formats.py"
    spec = importlib.util.spec_from_file_location("svc_tests_wave_formats_40", source)
    assert spec is not None
    assert spec.loader is not None
    formats = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(formats)
    tensors = formats.fairseq_tensors(layers=9, projection=256)
    for name, tensor in tensors.items():  # so that what it hears outweighs what it is
        tensor.mul_(0.0 if name.endswith("bias") else 0.1 if "out_proj" in name else 1.0)
    path = Path("pretrain/checkpoint_best_legacy_500.pt")
    path.parent.mkdir()
    torch.save({"args": None, "cfg": {}, "model": tensors}, path)
    return path


def test_a_40_voice_sings(
    content_vec: Path,
    clip: np.ndarray,
    voice: Make,
    sing: Make,
    make_config: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Checkpoint and config as 4.0 leaves them, at the default place of the encoder. The same
    samples as with a 4.1 config that says everything.
    """
    path = voice(ssl_dim=256, speech_encoder="vec256l9", n_flow_layer=4)
    explicit = path.with_name("config.json")
    raw = json.loads(explicit.read_text())
    old = config_40(raw)
    assert not LATER & set(old["model"])
    raw["data"]["unit_interpolate_mode"] = "left"
    Path("explicit.json").write_text(json.dumps(raw))
    explicit.write_text(json.dumps(old))

    with caplog.at_level(logging.WARNING, "svc"):
        found = sing()
    assert 'no "model.speech_encoder"; taking vec256l9 (a 4.0 voice)' in caplog.text
    assert len(found) == len(clip)
    assert abs(np.median(distance(heard(found), heard(clip, "pm")))) < 5
    assert np.array_equal(sing("-c", "explicit.json"), found)
    assert not np.array_equal(sing("-a"), found)  # 4.0 voices predict F0 too

    raw["data"]["unit_interpolate_mode"] = "linear"  # the units are heard, so this would be too
    Path("explicit.json").write_text(json.dumps(raw))
    assert not np.array_equal(sing("-c", "explicit.json"), found)


def test_a_released_40_voice_in_half_precision(
    content_vec: Path, voice: Make, sing: Make, run: Run
) -> None:
    """Without its posterior encoder and optimizer, as voices are passed on."""
    path = voice(ssl_dim=256, speech_encoder="vec256l9", n_flow_layer=4)
    config = path.with_name("config.json")
    config.write_text(json.dumps(config_40(json.loads(config.read_text()))))
    whole = sing()
    state = load_checkpoint(path)["model"]
    kept = {name: x.half() for name, x in state.items() if not name.startswith("enc_q.")}
    assert len(kept) < len(state)
    save_checkpoint({"model": kept, "iteration": 0, "optimizer": {}, "learning_rate": 1e-4}, path)
    assert np.corrcoef(sing(), whole)[0, 1] > 0.99
    # Without the F0 decoder the config has to say so: a missing part is never made up.
    bare = {name: x for name, x in kept.items() if not name.startswith("f0_decoder.")}
    save_checkpoint({"model": bare, "iteration": 0, "optimizer": {}, "learning_rate": 1e-4}, path)
    done = run("-m", str(MODEL), "-n", "clip")
    assert done.code == 2
    assert "use_automatic_f0_prediction" in done.error
    raw = json.loads(config.read_text())
    raw["model"]["use_automatic_f0_prediction"] = False
    config.write_text(json.dumps(raw))
    assert np.corrcoef(sing(), whole)[0, 1] > 0.99


def test_a_40_voice_without_its_encoder_names_the_file(
    clip: np.ndarray, voice: Make, run: Run, make_config: Make
) -> None:
    path = voice(ssl_dim=256, speech_encoder="vec256l9", n_flow_layer=4)
    config = path.with_name("config.json")
    config.write_text(json.dumps(config_40(json.loads(config.read_text()))))
    done = run("-m", str(MODEL), "-n", "clip")
    assert done.code == 2
    assert "checkpoint_best_legacy_500.pt" in done.error


# ------------------------------------------------------------------------------ loudness envelope


def test_the_envelope_becomes_the_sources(lively: np.ndarray, voice: Make, sing: Make) -> None:
    voice()
    own, source = sing(), level(lively)
    sung = source > source.max() - 15  # dB below the loudest second
    assert sung.sum() > 60
    away = (level(own) - source)[sung]
    assert np.percentile(np.abs(away - np.median(away)), 95) > 4  # dB: a loudness of its own
    followed = level(sing("-lea", "0"))
    # Windows of a second, twice a second: inside a window the voice keeps its own shape.
    away = np.abs(followed - source)[sung]
    assert np.median(away) < 1.2
    assert np.percentile(away, 95) < 3
    between = level(sing("-lea", "0.5"))
    middle = (level(own) + followed) / 2  # the geometric mean
    assert np.abs(between - middle)[sung].max() < 1


def test_an_envelope_of_one_changes_nothing(
    clip: np.ndarray, voice: Make, sing: Make, stub_encoder: None
) -> None:
    voice()
    own = sing()
    assert np.array_equal(sing("-lea", "1"), own)
    assert not np.array_equal(sing("-lea", "0.99"), own)


def test_the_envelope_is_the_golden_function_of_source_and_result(
    clip: np.ndarray, voice: Make, sing: Make, stub_encoder: None
) -> None:
    """Of one stretch without context: `match_envelope`, which test_loudness.py holds to the
    original's arrays, of what the voice sings otherwise.
    """
    voice()
    write_audio("raw/whole.wav", clip[: 200 * HOP], SR)
    heard_source = read_audio("raw/whole.wav")[0]
    flags = ("-p", "0", "-sd", "-90")
    own = sing(*flags, song="whole")
    for ratio in (0.0, 0.3):
        wanted = match_envelope(
            torch.from_numpy(heard_source), SR, torch.from_numpy(own), SR, ratio
        ).numpy()
        found = sing(*flags, "-lea", str(ratio), song="whole")
        np.testing.assert_allclose(found[2000:-2000], wanted[2000:-2000], atol=2e-4)


# ------------------------------------------------------------------------------ all at once


def test_everything_together(clip: np.ndarray, voice: Make, sing: Make) -> None:
    """A voice with volume embedding, own melody and the source's loudness; twice the same bytes."""
    voice(vol_embedding=True)
    flags = ("-a", "-lea", "0", "-cl", "1.3", "-lg", "0.2")
    first = sing(*flags)
    assert len(first) == len(clip)
    assert np.array_equal(sing(*flags), first)
