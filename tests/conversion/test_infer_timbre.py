"""Clusters and index in a conversion: from `svc train-cluster` and `svc train-index` to a song."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import read_audio, write_audio
from svc.checkpoint import save_tensor
from svc.cli.main import main
from svc.conversion import Converter, InferOptions
from svc.conversion.options import HearingChoice
from svc.dataset.features import FeatureCache
from svc.errors import ConfigError

SR = 44100
SPEAKERS = {"alice": 0, "bob": 1}
OWN = -2.0  # what the stub finds for bob


class StubRetriever:
    """Every sound of a voice is the same: twice its id below zero, where no unit heard is."""

    speakers = frozenset({0, 1})

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.asked: list[tuple[int, str, int]] = []

    def match(self, units: torch.Tensor, name: str, speaker_id: int) -> torch.Tensor:
        assert units.shape[1] == self.dim
        self.asked.append((len(units), name, speaker_id))
        return torch.full_like(units, -2.0 * speaker_id)


@pytest.fixture
def converter(make_converter: Any) -> Converter:
    """Remembers in `.heard` the units that its net is given."""
    made: Any = make_converter()
    made._voice = dataclasses.replace(made.voice, retriever=StubRetriever(8))
    made.heard = []
    infer = made.voice.synthesizer.infer

    def spy(units: torch.Tensor, *rest: Any, **more: Any) -> Any:
        made.heard.append(units.clone())
        return infer(units, *rest, **more)

    made.voice.synthesizer.infer = spy
    return made  # type: ignore[no-any-return]


def units_of(converter: Any, wav: np.ndarray, **options: Any) -> torch.Tensor:
    converter.heard.clear()
    converter.convert(wav, SR, "bob", InferOptions(**options))
    heard: torch.Tensor = torch.cat(converter.heard, dim=-1)
    return heard


def test_units_are_drawn_to_the_voices_own(converter: Any, song: Any) -> None:
    wav = song([(0.5, 0.5)])
    plain = units_of(converter, wav)
    assert not converter.voice.retriever.asked  # nothing is looked for in vain
    torch.testing.assert_close(units_of(converter, wav, cluster_ratio=1.0), OWN + 0 * plain)
    torch.testing.assert_close(
        units_of(converter, wav, cluster_ratio=0.25), 0.75 * plain + 0.25 * OWN
    )
    (frames, name, number), *_ = converter.voice.retriever.asked
    assert (name, number) == ("bob", 1)
    assert frames < plain.shape[-1]  # looked for at 50 frames per second, before stretching


def test_unvoiced_sounds_can_be_spared(converter: Any, song: Any) -> None:
    """The stub predictor calls the context outside the song unvoiced."""
    wav = song([(0.5, 0.5)])
    plain = units_of(converter, wav)
    spared = units_of(converter, wav, cluster_ratio=1.0, protect=1.0)
    half = units_of(converter, wav, cluster_ratio=1.0, protect=0.5)
    drawn = torch.isclose(spared, OWN + 0 * spared).all(dim=1)[0]
    assert 0.3 < drawn.float().mean() < 0.9
    torch.testing.assert_close(spared[..., ~drawn], plain[..., ~drawn])
    torch.testing.assert_close(half[..., ~drawn], 0.5 * plain[..., ~drawn] + 0.5 * OWN)
    torch.testing.assert_close(half[..., drawn], OWN + 0 * half[..., drawn])


def test_a_voice_that_is_not_in_the_file(converter: Any) -> None:
    converter.voice.retriever.speakers = frozenset({"alice"})
    converter.check_options(InferOptions(cluster_ratio=0.5), "alice")
    with pytest.raises(ConfigError, match='knows alice, not "bob" \\(id 1\\)'):
        converter.check_options(InferOptions(cluster_ratio=0.5), "bob")
    converter._voice = dataclasses.replace(converter.voice, retriever=None)
    with pytest.raises(ConfigError, match="name the file with -cm"):
        converter.check_options(InferOptions(cluster_ratio=0.5), "alice")


# ------------------------------------------------------------------------------ the commands


@pytest.fixture
def voice(work: Path, save_voice: Any, make_config: Any, rng: np.random.Generator) -> Path:
    """A voice of two speakers with the features of some clips of each."""
    config = dataclasses.replace(make_config(n_speakers=2), spk=SPEAKERS)
    Path("mine").mkdir()
    model: Path = save_voice(Path("mine"), config)
    cache = FeatureCache.from_config(config)
    for name in SPEAKERS:
        for clip in range(3):
            path = Path("dataset/44k") / name / f"{clip}.wav"
            write_audio(path, 0.1 * rng.standard_normal(140 * 512).astype(np.float32), SR)
            units = torch.from_numpy(rng.standard_normal((384, 80)).astype(np.float32))
            cache.save(path, units=units, f0=torch.tensor([[220.0] * 140, [1.0] * 140]))
    return model


def test_from_features_to_a_song(run: Any, voice: Path, stub_encoder: None) -> None:
    song = ("-n", "song", "-m", str(voice), "-s", "bob", "-wf", "wav", "-cr", "0.5")
    assert "svc train-cluster" in run(*song).error
    assert "svc train-index" in run(*song, "-fr").error
    config = str(voice.with_name("config.json"))
    assert main(["train-cluster", "--k", "16", "--output", "mine", "-d", "cpu"]) == 0
    assert main(["train-index", "-c", config, "--output_dir", "mine"]) == 0
    result = Path("results/song_0key_bob_0.5_sovits_pm.wav")
    heard = []
    for flags in ((), ("-fr",), ("-fr", "--index_nprobe", "4", "--index_k", "2")):
        done = run(*song, *flags)
        assert done.code == 0, done.err
        heard.append(read_audio(result)[0])
        assert np.abs(heard[-1]).max() > 1e-3
    choice = HearingChoice(device="cpu", cluster_path="mine/kmeans_16.pt")
    with Converter.from_files(voice, choice=choice) as converter:
        assert converter.voice.retriever.dim == 384  # type: ignore[attr-defined]


def test_files_of_another_voice_are_refused(
    run: Any, voice: Path, stub_encoder: None, no_reading: None
) -> None:
    for name in SPEAKERS:
        save_tensor(torch.randn(1, 256, 60), Path("other") / name / "0.wav.soft.pt")
    assert main(["train-cluster", "--dataset", "other", "--k", "8", "--output", "other"]) == 0
    song = ("-n", "song", "-m", str(voice), "-s", "bob", "-cr", "0.5")
    assert "256" in run(*song, "-cm", "other/kmeans_8.pt").error
    assert "gone.pt is not there" in run(*song, "-cm", "gone.pt").error
    for number in (8, 9):
        Path(f"mine/kmeans_{number}.pt").write_bytes(b"x")
    assert "several files of clusters (kmeans_8.pt, kmeans_9.pt)" in run(*song).error
    assert "kmeans_8.pt" in run(*song, "-cm", "mine/kmeans_8.pt").error
