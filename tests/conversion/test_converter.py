from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import read_audio
from svc.audio.pitch import F0Track
from svc.conversion import Converter, InferOptions
from svc.errors import AudioError, ConfigError, DeviceError, SvcError

Make = Callable[..., Converter]
Song = Callable[..., np.ndarray]
SR = 44100


def db(wav: np.ndarray) -> float:
    return float(20 * np.log10(max(np.sqrt(np.mean(np.square(wav, dtype=np.float64))), 1e-12)))


# ------------------------------------------------------------------------------ with a real net


@pytest.mark.parametrize("sr", [8000, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("seconds", [0.1, 0.7003])
def test_length_is_the_inputs_times_the_ratio(
    make_converter: Make, song: Song, sr: int, seconds: float
) -> None:
    wav = song([(seconds, 0.5)], sr)
    with make_converter() as converter:
        result = converter.convert(wav, sr, "alice")
    assert result.dtype == np.float32
    assert result.shape == (-(-len(wav) * SR // sr),)
    assert np.abs(result).max() > 1e-3


@pytest.mark.parametrize("n_samples", [0, 1, 2, 399, 511, 512, 513])
def test_very_short_inputs(make_converter: Make, n_samples: int) -> None:
    wav = np.full(n_samples, 0.3, np.float32)
    for pad in (0.0, 0.5):
        result = make_converter().convert(wav, SR, 0, InferOptions(pad_seconds=pad))
        assert result.shape == (n_samples,)
        assert np.isfinite(result).all()


@pytest.mark.parametrize("seconds", [0.05, 1.0, 8.0])
@pytest.mark.parametrize("level", [0.0, 0.003])
def test_silence_in_is_exact_silence_out(
    make_converter: Make, rng: np.random.Generator, seconds: float, level: float
) -> None:
    wav = (level * rng.standard_normal(round(seconds * SR))).astype(np.float32)
    result = make_converter().convert(wav, SR, "alice")
    assert result.shape == wav.shape
    assert not result.any()


def test_pauses_are_exact_silence(make_converter: Make, song: Song) -> None:
    wav = song([(6, 0.5), (12, 0), (1, 0.5)])
    result = make_converter().convert(wav, SR, "alice")
    assert not result[round(11.5 * SR) : round(12.5 * SR)].any()
    assert db(result[: 5 * SR]) > -60
    assert db(result[-SR // 2 :]) > -60


def test_the_same_seed_gives_the_same_samples(make_converter: Make, song: Song) -> None:
    wav = song([(1, 0.5)])
    converter = make_converter()
    first = converter.convert(wav, SR, "alice")
    torch.manual_seed(99)
    torch.rand(10)
    state = torch.get_rng_state()
    assert np.array_equal(converter.convert(wav, SR, "alice"), first)
    assert torch.equal(torch.get_rng_state(), state)  # the global generators are left alone
    other = converter.convert(wav, SR, "alice", InferOptions(seed=1))
    assert not np.array_equal(other, first)


def test_speakers_and_noise_change_the_result(make_converter: Make, song: Song) -> None:
    wav = song([(0.5, 0.5)])
    converter = make_converter()
    alice = converter.convert(wav, SR, "alice")
    assert not np.array_equal(converter.convert(wav, SR, "bob"), alice)
    assert np.array_equal(converter.convert(wav, SR, 0), alice)
    assert np.array_equal(converter.convert(wav, SR, "0"), alice)
    assert not np.array_equal(
        converter.convert(wav, SR, "alice", InferOptions(noise_scale=0)), alice
    )


def test_transposition_reaches_the_net(
    make_converter: Make, song: Song, monkeypatch: pytest.MonkeyPatch
) -> None:
    converter = make_converter()
    heard: list[torch.Tensor] = []
    infer = converter.voice.synthesizer.infer

    def spy(units: Any, f0: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        heard.append(f0)
        return infer(units, f0, *args, **kwargs)

    monkeypatch.setattr(converter.voice.synthesizer, "infer", spy)
    converter.convert(song([(0.5, 0.5)]), SR, 0, InferOptions(transpose=12))
    assert set(heard[0].unique().tolist()) == {0.0, 440.0}  # the context stays unvoiced


def test_unvoiced_input_works(make_converter: Make, rng: np.random.Generator) -> None:
    class Unvoiced:
        name = "unvoiced"

        def __call__(self, wav: np.ndarray) -> F0Track:
            return F0Track(*np.zeros((2, len(wav) // 512), np.float32))

    voice = dataclasses.replace(make_converter().voice, f0_predictor=Unvoiced())
    whisper = (0.3 * rng.standard_normal(SR)).astype(np.float32)
    for options in (InferOptions(transpose=-5), InferOptions(auto_f0=True)):
        result = Converter(voice).convert(whisper, SR, 0, options)
        assert np.isfinite(result).all()
        assert result.any()


def test_volume_embedding(make_converter: Make, song: Song) -> None:
    converter = make_converter(vol_embedding=True)
    loud = converter.convert(song([(0.5, 0.5)]), SR, 0)
    assert loud.shape == (SR // 2,)
    assert np.isfinite(loud).all()


def test_auto_f0(make_converter: Make, song: Song) -> None:
    wav = song([(0.5, 0.5)])
    with_decoder = make_converter()
    auto = with_decoder.convert(wav, SR, 0, InferOptions(auto_f0=True))
    assert not np.array_equal(auto, with_decoder.convert(wav, SR, 0))
    without = make_converter(use_automatic_f0_prediction=False)
    with pytest.raises(ConfigError, match="run without -a"):
        without.convert(wav, SR, 0, InferOptions(auto_f0=True))


def test_the_loudness_envelope_follows_the_source(make_converter: Make) -> None:
    time = np.arange(6 * SR) / SR
    wav = (np.sin(2 * np.pi * 220 * time) * np.where(time < 3, 0.5, 0.05)).astype(np.float32)
    converter = make_converter()
    own = converter.convert(wav, SR, 0)
    followed = converter.convert(wav, SR, 0, InferOptions(loudness_envelope=0))
    middle = [slice(SR, 2 * SR), slice(4 * SR, 5 * SR)]
    assert abs((db(own[middle[0]]) - db(own[middle[1]])) - 20) > 3
    assert db(followed[middle[0]]) == pytest.approx(db(wav[middle[0]]), abs=0.5)
    assert db(followed[middle[1]]) == pytest.approx(db(wav[middle[1]]), abs=0.5)


def test_windows_are_whole_frames(make_converter: Make, song: Song) -> None:
    converter = make_converter()
    converter.convert(song([(1.0, 0.5)]), SR, 0, InferOptions(pad_seconds=0.123, clip_seconds=0.3))
    lengths = converter.voice.f0_predictor.lengths  # type: ignore[attr-defined]
    assert len(lengths) == 4
    assert all(length % 512 == 0 for length in lengths)


def test_compat_runs_and_keeps_the_original_length(make_converter: Make, song: Song) -> None:
    wav = song([(6, 0.5), (12, 0), (1.01, 0.5)], 16000)
    result = make_converter(compat=True).convert(wav, 16000, 0, InferOptions(clip_seconds=2.5))
    assert abs(len(result) - len(wav) * SR / 16000) < 8
    assert np.abs(result).max() > 1e-3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_samples_are_refused(make_converter: Make, bad: float) -> None:
    with pytest.raises(AudioError, match="NaN or infinite"):
        make_converter().convert(np.array([0, bad, 0], np.float32), SR, 0)


def test_mistakes_of_the_caller(make_converter: Make) -> None:
    converter = make_converter()
    with pytest.raises(ValueError, match="shape"):
        converter.convert(np.zeros((2, 100), np.float32), SR, 0)
    with pytest.raises(ValueError, match="sr"):
        converter.convert(np.zeros(100, np.float32), 0, 0)
    converter.close()
    converter.close()
    with pytest.raises(ValueError, match="closed"):
        converter.convert(np.zeros(100, np.float32), SR, 0)


def test_a_diverged_model_is_an_error(make_converter: Make, song: Song) -> None:
    converter = make_converter()
    with torch.no_grad():
        converter.voice.synthesizer.pre.weight[0, 0, 0] = float("nan")
    with pytest.raises(SvcError, match="earlier checkpoint"):
        converter.convert(song([(0.5, 0.5)]), SR, 0)


def test_an_encoder_of_another_width_is_refused(make_converter: Make) -> None:
    with pytest.raises(ConfigError, match=r"8 wide.*takes units 768.*vec768l12"):
        make_converter(ssl_dim=768)


# ------------------------------------------------------------------------------ joins


def test_an_echo_comes_back_unchanged(echo: Any, song: Song) -> None:
    """Nothing is shifted, scaled or lost on the way, but for the fades at silence."""
    wav = song([(6, 0.5), (12, 0), (6.5, 0.5)])
    for options in (
        InferOptions(),
        InferOptions(pad_seconds=0),
        InferOptions(clip_seconds=1.7),
        InferOptions(clip_seconds=1.7, crossfade_seconds=0.6),
        InferOptions(clip_seconds=1.7, crossfade_seconds=0.6, crossfade_retain=1, pad_seconds=0),
        InferOptions(max_chunk_seconds=2),
    ):
        result = Converter(echo()).convert(wav, SR, 0, options)
        assert result.shape == wav.shape
        np.testing.assert_allclose(result, wav, atol=1e-6)


def test_an_echo_at_another_rate_keeps_time(echo: Any, song: Song) -> None:
    wav = song([(2.0, 0.5)], 48000)
    result = Converter(echo()).convert(wav, 48000, 0, InferOptions(clip_seconds=0.5))
    expected = song([(2.0, 0.5)], SR)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result[2000:-2000], expected[2000:-2000], atol=2e-3)


def tone_of_chance(window: np.ndarray, call: int) -> np.ndarray:
    """What a net does at worst: every stretch starts with another phase and level."""
    rng = np.random.default_rng(call)
    time = np.arange(len(window)) / SR
    return rng.uniform(0.2, 0.4) * np.sin(2 * np.pi * (220 * time + rng.random()))


@pytest.mark.parametrize(
    "options",
    [
        InferOptions(),
        InferOptions(pad_seconds=0),
        InferOptions(clip_seconds=0.9),
        InferOptions(clip_seconds=0.9, pad_seconds=0),
        InferOptions(clip_seconds=0.9, crossfade_seconds=0.2),
        InferOptions(clip_seconds=0.9, crossfade_seconds=0.2, crossfade_retain=1),
        InferOptions(max_chunk_seconds=1.5),
    ],
)
def test_joins_do_not_click(echo: Any, song: Song, options: InferOptions) -> None:
    # A pause of 0.4 s is a cut between two voiced stretches, 12 s hold exact silence.
    wav = song([(6, 0.5), (0.4, 0.001), (6, 0.5), (12, 0), (3, 0.5)])
    voice = echo(tone_of_chance)
    result = Converter(voice).convert(wav, SR, 0, options)
    assert len(voice.windows) >= 3
    steepest = 0.4 * 2 * np.pi * 220 / SR  # of the loudest tone
    fade = 0.5 * np.pi * 0.4 / (0.005 * SR)  # what a fade of 5 ms adds
    assert np.abs(np.diff(result)).max() < steepest + fade
    assert np.abs(result).max() <= 0.4 * 1.5


def test_no_join_is_louder_than_its_surroundings(echo: Any, rng: np.random.Generator) -> None:
    def noise(window: np.ndarray, call: int) -> np.ndarray:
        return np.random.default_rng(call).standard_normal(len(window)) * 0.1

    wav = np.full(20 * SR, 0.5, np.float32)
    options = InferOptions(clip_seconds=1, crossfade_seconds=0.1, crossfade_retain=1)
    result = Converter(echo(noise)).convert(wav, SR, 0, options)
    levels = [db(part) for part in np.split(result, 20 * 20)]  # 50 ms each
    assert max(levels) - min(levels) < 1.5


def test_real_singing_through_every_kind_of_cut(echo: Any, shared: Path) -> None:
    paths = sorted((shared / "audio").rglob("*.flac"), key=lambda path: path.stat().st_size)
    wav, sr = read_audio(paths[-1])
    wav = wav[: 20 * sr]
    options = InferOptions(clip_seconds=2.3, crossfade_seconds=0.3)
    result = Converter(echo(sampling_rate=sr)).convert(wav, sr, 0, options)
    silent = result == 0
    np.testing.assert_allclose(result[~silent], wav[~silent], atol=np.abs(wav).max() * 0.02)
    assert np.abs(np.diff(result)).max() <= np.abs(np.diff(wav)).max() * 1.02


# ------------------------------------------------------------------------------ context, memory


def test_context_is_the_real_surrounding(echo: Any, song: Song) -> None:
    seen: list[np.ndarray] = []

    def look(window: np.ndarray, call: int) -> np.ndarray:
        seen.append(window.copy())
        return window

    wav = song([(2, 0.5)])
    Converter(echo(look)).convert(wav, SR, 0, InferOptions(clip_seconds=1, pad_seconds=0.25))
    pad = round(0.25 * SR)
    assert not seen[0][:pad].any()  # before the song there is nothing
    joint = 220  # samples of the join on each side of the cut
    begin = (SR - joint - pad) // 512 * 512  # the song's frames are the window's
    np.testing.assert_array_equal(seen[1][:pad], wav[begin : begin + pad])


def test_memory_is_bounded_without_pauses(echo: Any) -> None:
    voice = echo(sampling_rate=8000)
    wav = np.full(8000 * 300, 0.5, np.float32)
    Converter(voice).convert(wav, 8000, 0)
    assert max(voice.windows) <= 8000 * 31.5
    assert len(voice.windows) < 20


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_out_of_memory_says_what_to_do(echo: Any, error: Exception) -> None:
    def fail(window: np.ndarray, call: int) -> np.ndarray:
        raise error

    with pytest.raises(DeviceError, match="-cl 10"):
        Converter(echo(fail)).convert(np.ones(SR, np.float32), SR, 0)


def test_other_faults_keep_their_traceback(echo: Any) -> None:
    def fail(window: np.ndarray, call: int) -> np.ndarray:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        Converter(echo(fail)).convert(np.ones(SR, np.float32), SR, 0)


def test_progress_counts_the_stretches(echo: Any) -> None:
    seen: list[tuple[int, int]] = []
    Converter(echo()).convert(
        np.ones(3 * SR, np.float32),
        SR,
        0,
        InferOptions(clip_seconds=1),
        progress=lambda done, total, what: seen.append((done, total)),
    )
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_memory_is_given_back_after_the_models_are_gone(
    echo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a device still holds for them could not be given back."""
    alive: list[bool] = []
    voice = echo()
    gone = weakref.ref(voice)
    note = staticmethod(lambda: alive.append(gone() is not None))
    monkeypatch.setattr(echo, "give_back", note)
    converter = Converter(voice)
    del voice
    converter.close()
    converter.close()
    assert alive == [False]
