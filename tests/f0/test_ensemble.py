"""ensemble: voicing, confidence, threads, and that it errs less than its members."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from svc.audio.pitch import F0Track, cents
from svc.audio.resample import sinc_resample
from svc.errors import AudioError
from svc.f0 import build_f0_predictor
from svc.f0.ensemble import EnsemblePredictor, certainty
from svc.f0.settings import F0Settings
from svc.f0.swift import swift_asset
from svc.f0.wave import F0Wave

Wave = npt.NDArray[np.float32]
needs_swift = pytest.mark.skipif(swift_asset() is None, reason="swift-f0 is not installed")


class Member:
    """Says what it is told to, and notes who asked."""

    def __init__(self, name: str, track: F0Track | None = None, threshold: float = 0.5) -> None:
        self.name = name
        self.settings = F0Settings(threshold=threshold)
        self.track = track
        self.threads: list[int] = []
        self.heard: list[int] = []

    def track_batch(self, wavs: Sequence[Wave | F0Wave]) -> list[F0Track]:
        self.threads.append(threading.get_ident())
        self.heard.append(len(wavs))
        tracks = []
        for wav in wavs:
            n = len(wav) // 512
            tracks.append(self.track or say(np.full(n, 220.0)))
        return tracks


def say(
    f0: npt.ArrayLike, confidence: npt.ArrayLike | None = 0.9, voiced: npt.ArrayLike | None = None
) -> F0Track:
    hz = np.asarray(f0, dtype=np.float32)
    uv = hz > 0 if voiced is None else np.asarray(voiced)
    sure = None if confidence is None else np.broadcast_to(np.float32(confidence), hz.shape)
    return F0Track(np.where(hz > 0, hz, 100.0), uv.astype(np.float32), sure)


def combined(*tracks: F0Track, names: Sequence[str] = ("crepe", "swift", "rmvpe")) -> F0Track:
    members = [Member(name) for name in names[: len(tracks)]]
    return EnsemblePredictor(members, F0Settings()).combine(tracks)


def test_the_majority_says_what_is_voiced() -> None:
    a = say([220, 220, 220, 0], [0.9, 0.9, 0.9, 0.1])
    b = say([220, 220, 0, 0], [0.9, 0.9, 0.1, 0.1])
    c = say([220, 0, 0, 220], [0.9, 0.1, 0.1, 0.9])
    track = combined(a, b, c)
    np.testing.assert_array_equal(track.uv, [1, 1, 0, 0])
    np.testing.assert_allclose(track.f0, 220, rtol=1e-6)  # the gaps are filled


def test_one_that_is_sure_outvotes_two_that_waver() -> None:
    wavering = say([0.0], [0.45], voiced=[0])
    assert combined(say([220.0], [0.95]), wavering, wavering).uv.tolist() == [1]
    sure = say([0.0], [0.02], voiced=[0])
    assert combined(say([220.0], [0.95]), sure, sure).uv.tolist() == [0]


def test_certainty_is_a_half_at_the_threshold() -> None:
    """Of the nets, whatever their threshold; of others that are voiced, more than a half."""
    member = Member("fcpe", threshold=0.05)
    track = say([220, 220, 220, 0, 0], [0.05, 0.525, 1.0, 0.025, 0.0], voiced=[1, 1, 1, 0, 0])
    np.testing.assert_allclose(certainty(track, member), [0.5, 0.75, 1, 0.25, 0], atol=1e-6)
    track = replace(track, confidence=None)
    np.testing.assert_allclose(certainty(track, Member("dio")), [0.75, 0.75, 0.75, 0.25, 0.25])
    track = say([220, 0], [0.8, 0.0])
    np.testing.assert_allclose(certainty(track, Member("pm")), [0.9, 0.25], atol=1e-6)
    silent = say([0.0], [0.0], voiced=[0])
    assert certainty(silent, Member("crepe", threshold=0.0)).tolist() == [0]


def test_the_old_methods_count_less_than_the_nets() -> None:
    """At odds by an octave and equally sure, a net is believed; for voicing too."""
    net, old = say([440.0] * 9, 0.8), say([220.0] * 9, 0.6)
    for names in (("swift", "pm"), ("pm", "swift")):
        tracks = (net, old) if names[0] == "swift" else (old, net)
        np.testing.assert_allclose(combined(*tracks, names=names).f0, 440, rtol=1e-6)


def test_fcpe_has_no_say_where_it_is_deaf() -> None:
    """It hears nothing above 1080 Hz; below it its silence counts."""
    deaf = say([0.0, 0.0], [0.0, 0.0], voiced=[0, 0])
    track = combined(say([1090.0, 900.0], 0.8), deaf, names=("swift", "fcpe"))
    assert track.uv.tolist() == [1, 0]
    assert track.confidence is not None
    assert track.confidence[0] > 0.6


def test_confidence_is_the_share_that_agrees() -> None:
    one = say([220.0] * 3, 1.0)
    track = combined(one, one, one)
    np.testing.assert_allclose(track.confidence, 1)
    octave = say([440.0] * 3, 1.0)
    np.testing.assert_allclose(combined(one, one, octave).confidence, 2.5 / 3, rtol=1e-6)
    fifth = say([330.0] * 3, 1.0)
    np.testing.assert_allclose(combined(one, one, fifth).confidence, 2 / 3, rtol=1e-6)
    nothing = say([0.0] * 3, 0.0)
    track = combined(nothing, nothing)
    np.testing.assert_array_equal(track.confidence, 0)
    np.testing.assert_array_equal(track.f0, 0)
    np.testing.assert_array_equal(track.uv, 0)


def test_members_work_in_threads_and_pm_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svc.f0.ensemble.cpu_threads", lambda: 2)
    together = threading.Barrier(2, timeout=20)  # both must be under way at once to pass

    class Waiting(Member):
        def track_batch(self, wavs: Sequence[Wave | F0Wave]) -> list[F0Track]:
            together.wait()
            return super().track_batch(wavs)

    members = [Waiting("dio"), Member("pm"), Waiting("harvest")]
    track = EnsemblePredictor(members, F0Settings())(np.zeros(44100, np.float32))
    assert len(track) == 86
    here = threading.get_ident()
    assert members[1].threads == [here]
    assert here not in members[0].threads + members[2].threads
    assert [member.heard for member in members] == [[1]] * 3


def test_an_error_of_a_member_is_the_ensembles() -> None:
    wav = np.zeros(44100, np.float32)
    wav[5] = np.nan
    with pytest.raises(AudioError, match="1 samples of 44100"):
        EnsemblePredictor([Member("dio"), Member("pm")], F0Settings())(wav)

    class Broken(Member):
        def track_batch(self, wavs: Sequence[Wave | F0Wave]) -> list[F0Track]:
            raise AudioError("broken")

    with pytest.raises(AudioError, match="broken"):
        EnsemblePredictor([Broken("dio"), Member("pm")], F0Settings())(np.zeros(9999, np.float32))


def test_members_must_share_the_grid() -> None:
    with pytest.raises(ValueError, match="another grid"):
        EnsemblePredictor([Member("dio"), Member("pm")], F0Settings(hop_length=256))
    with pytest.raises(ValueError, match="two or more"):
        EnsemblePredictor([Member("dio")], F0Settings())


def test_batches_are_what_each_wave_is_alone(
    voice: Callable[..., Wave], rng: np.random.Generator
) -> None:
    predictor = build_f0_predictor("ensemble:fcpe+dio+pm")
    waves = [
        voice(np.full(n, 200.0 + n / 100)) + rng.normal(0, 0.01, n).astype(np.float32)
        for n in (30_000, 400, 1000, 30_000, 22_050)
    ]
    tracks = predictor.track_batch(waves)
    assert [len(track) for track in tracks] == [len(wav) // 512 for wav in waves]
    assert predictor.track_batch([]) == []
    for track, wav in zip(tracks, waves, strict=True):
        alone = predictor(wav)
        np.testing.assert_array_equal(track.uv, alone.uv)
        np.testing.assert_allclose(track.f0, alone.f0, rtol=1e-4)
        assert track.confidence is not None
        assert track.confidence.shape == track.f0.shape


@needs_swift
def test_the_nets_share_one_resampled_wave(
    voice: Callable[..., Wave], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counting(*args: object, **options: object) -> object:
        calls.append(args)
        return sinc_resample(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("svc.f0.wave.sinc_resample", counting)
    predictor = build_f0_predictor("ensemble:fcpe+swift+crepe-tiny+pm")
    predictor(voice(np.full(44100, 220.0)))
    assert len(calls) == 1
    predictor(voice(np.full(2000, 220.0)))  # so short that it is padded
    assert len(calls) == 2


@needs_swift
def test_it_errs_less_than_any_member(voice: Callable[..., Wave]) -> None:
    """Legato leaps over octaves up to 1200 Hz in noise: fcpe is deaf to the highest note, the others
    are late or an octave off for a while (97 % of the frames are right, of the members' 61 to 90 %).
    """
    from svc.demo.singer import DEMO_HIGH, sing_contour

    contour = np.repeat(300.0 * np.array([1, 2, 4, 2, 1, 2, 1, 3]), 44100 // 3)
    rng = np.random.default_rng(3)
    sung = sing_contour(contour, voice=DEMO_HIGH, rng=rng)
    wav = (sung.wav + 0.01 * rng.standard_normal(len(sung.wav))).astype(np.float32)
    truth, _ = sung.frames(512)

    def right(name: str) -> float:
        track = build_f0_predictor(name, f0_max=1300.0)(wav)
        error = np.abs(cents(track.f0 * track.uv, truth))
        return float(np.mean((error < 50)[truth > 0]))

    members = [right(name) for name in ("fcpe", "swift", "crepe-tiny")]
    together = right("ensemble")
    assert together > 0.95
    assert together > max(members)
