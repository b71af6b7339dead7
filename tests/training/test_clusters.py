"""Centres of a dataset: what is read, what is refused before the work, and what stays of an earlier file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import write_audio
from svc.errors import ConfigError, DatasetError, DeviceError, OutputError, SvcError
from svc.retrieval.kmeans_files import read_centres, read_facts, side_car_path
from svc.training import clusters
from svc.training.clusters import ClusterOptions, ClusterReport, train_clusters


def units(seed: int = 0, frames: int = 30, dim: int = 6) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((dim, frames)).astype(np.float32))


def add(folder: Path, name: str, value: torch.Tensor, **meta: Any) -> Path:
    """A file of units as svc and the original write it, with a side-car where `meta` is given."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.wav.soft.pt"
    torch.save(value[None] if value.dim() == 2 else value, path)
    if meta:
        content = {"version": 1, **meta}
        (folder / f"{name}.wav.meta.json").write_text(json.dumps(content))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two voices of three clips."""
    root = tmp_path / "44k"
    for number, name in enumerate(("alice", "böb")):
        for clip in range(3):
            add(root / name, f"{clip}", units(10 * number + clip, 20 + clip))
    return root


@pytest.fixture
def options(root: Path, tmp_path: Path) -> Callable[..., ClusterOptions]:
    def make(**changes: Any) -> ClusterOptions:
        usual = {"dataset": root, "output": tmp_path / "logs", "config": tmp_path / "none.json"}
        return ClusterOptions(**{**usual, "device": "cpu", "k": 8, **changes})

    return make


Options = Callable[..., ClusterOptions]


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong has to be found before any centre is computed."""

    def fit(*_: Any, **__: Any) -> None:
        pytest.fail("k-means was begun")

    monkeypatch.setattr(clusters, "fit_kmeans", fit)


def test_every_speaker_has_centres_of_all_its_frames(options: Options, root: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    report = train_clusters(options(), lambda *call: seen.append(call))
    assert report.path.name == "kmeans_8.pt"
    assert (report.built, report.kept, report.left_out) == (("alice", "böb"), (), ())
    centres = read_centres(report.path)
    assert {name: tuple(tensor.shape) for name, tensor in centres.items()} == {
        "alice": (8, 6),
        "böb": (8, 6),
    }
    facts = read_facts(report.path)
    assert facts is not None
    assert (facts.encoder, facts.dim, facts.seed, facts.method) == (None, 6, 0, "minibatch")
    rows = torch.cat([torch.load(path)[0].T for path in sorted((root / "alice").glob("*.soft.pt"))])
    assert facts.speakers["alice"].rows == len(rows) == 63
    exact = torch.cdist(rows.double(), centres["alice"].double()).min(1).values.square().sum()
    assert facts.speakers["alice"].inertia == pytest.approx(float(exact), rel=0.02)
    assert facts.speakers["alice"].spread == pytest.approx(
        float((rows - rows.mean(0)).square().sum()), rel=1e-5
    )
    done = [call[0] for call in seen]
    assert done == sorted(done)
    assert seen[-1][:2] == (1000, 1000)
    assert {"alice: checking", "böb: done"} <= {call[2] for call in seen}


def test_the_same_command_gives_the_same_bytes(options: Options, tmp_path: Path) -> None:
    contents = []
    for folder in ("one", "two"):
        path = train_clusters(options(output=tmp_path / folder, seed=3)).path
        contents.append((read_centres(path), json.loads(side_car_path(path).read_text())))
    assert contents[0][1] == contents[1][1]
    assert all(torch.equal(contents[0][0][name], contents[1][0][name]) for name in ("alice", "böb"))
    assert contents[0][1]["seed"] == 3
    # other speakers in the folder change nothing
    alone = train_clusters(options(output=tmp_path / "three", seed=3, speakers=("böb",))).path
    assert torch.equal(read_centres(alone)["böb"], contents[0][0]["böb"])


def test_fewer_frames_than_centres(options: Options) -> None:
    report = train_clusters(options(k=10_000, speakers=("alice",)))
    assert report.path.name == "kmeans_10000.pt"
    assert report.facts.speakers["alice"].k == 63
    assert report.facts.speakers["alice"].inertia == 0


def test_lloyd(options: Options) -> None:
    assert train_clusters(options(full=True)).facts.method == "full"


# ------------------------------------------------------------------------------------------ the folders


def test_folders_that_are_no_speakers(options: Options, root: Path) -> None:
    (root / "empty").mkdir()
    add(root / ".ipynb_checkpoints", "a", units())
    (root / "alice" / "sub").mkdir()
    add(root / "alice" / "sub", "a", units())
    (root / "alice" / ".a.wav.soft.pt").write_bytes(b"junk of another system")
    (root / "loose.wav.soft.pt").write_bytes(b"not in a folder")
    write_audio(root / "alice" / "short.wav", np.zeros(100, np.float32), 8000)
    report = train_clusters(options())
    assert set(report.facts.speakers) == {"alice", "böb"}
    assert report.facts.speakers["alice"].rows == 63
    said = {item.path.name: item.reason for item in report.left_out}
    assert set(said) == {"empty", ".ipynb_checkpoints", "short.wav"}
    assert "no speaker" in said[".ipynb_checkpoints"]
    assert "no features" in said["short.wav"]


@pytest.mark.usefixtures("no_work")
def test_speakers_that_are_not_there(options: Options, root: Path) -> None:
    with pytest.raises(ConfigError, match=r'no folder of a speaker "alise"; did you mean "alice"'):
        train_clusters(options(speakers=("böb", "alise")))
    with pytest.raises(ConfigError, match="it has alice, böb"):
        train_clusters(options(speakers=("x",)))
    with pytest.raises(ConfigError, match="names nobody"):
        options(speakers=())
    (root / "empty").mkdir()
    with pytest.raises(DatasetError, match="empty has no features"):
        train_clusters(options(speakers=("empty",)))


@pytest.mark.usefixtures("no_work")
def test_recordings_without_any_features(options: Options, root: Path) -> None:
    for name in ("a.wav", "b.wav"):
        write_audio(root / "carol" / name, np.zeros(100, np.float32), 8000)
    with pytest.raises(
        DatasetError, match=r"carol has no features of the speaker; run  svc prepro"
    ):
        train_clusters(options())


@pytest.mark.usefixtures("no_work")
def test_folders_without_a_speaker(options: Options, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not there"):
        train_clusters(options(dataset=tmp_path / "nowhere"))
    (tmp_path / "void" / "empty").mkdir(parents=True)
    with pytest.raises(DatasetError, match="no folder of a speaker with features"):
        train_clusters(options(dataset=tmp_path / "void"))


# --------------------------------------------------------------------------------------- the features


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "damaged": (damage, "damaged or refused"),
    "another width": (lambda path: torch.save(units(dim=7)[None], path), r"7 wide and .*0\.wav\.soft\.pt such 6 wide"),
    "not finite": (lambda path: torch.save(units()[None] / 0, path), "holds numbers that are not finite"),
    "empty": (lambda path: torch.save(torch.zeros(1, 6, 0), path), r"found \(6, 0\)"),
    "one axis": (lambda path: torch.save(torch.zeros(6), path), r"found \(6,\)"),
    "two clips": (lambda path: torch.save(torch.zeros(2, 6, 5), path), r"found \(2, 6, 5\)"),
    "no tensor": (lambda path: torch.save({"a": 1}, path), "damaged or refused"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("no_work")
def test_features_that_are_of_no_use(options: Options, root: Path, fault: str) -> None:
    spoil, words = FAULTS[fault]
    path = root / "böb" / "2.wav.soft.pt"
    spoil(path)
    with pytest.raises(SvcError, match=words) as caught:
        train_clusters(options())
    message = str(caught.value)
    assert str(path) in message
    assert "svc preprocess --stage features" in message
    assert "\n" not in message


def test_one_clip_without_the_first_axis_is_fine(options: Options, root: Path) -> None:
    torch.save(units(50, 20), root / "alice" / "0.wav.soft.pt")
    torch.save(units(50, 21)[None].half(), root / "alice" / "1.wav.soft.pt")
    assert train_clusters(options()).facts.speakers["alice"].rows == 63


@pytest.mark.usefixtures("no_work")
def test_units_of_two_encoders_of_one_width(options: Options, root: Path) -> None:
    add(root / "alice", "0", units(), units={"speech_encoder": "vec768l12"})
    add(root / "böb", "1", units(), units={"speech_encoder": "cnhubertlarge"})
    with pytest.raises(
        DatasetError, match=r'"cnhubertlarge" and .*0\.wav\.soft\.pt with "vec768l12"'
    ):
        train_clusters(options())


@pytest.mark.usefixtures("no_work")
def test_a_recording_that_has_changed(options: Options, root: Path) -> None:
    add(root / "alice", "0", units(), wav={"size": 1, "mtime_ns": 2, "blake2b": "x"})
    wav = root / "alice" / "0.wav"
    write_audio(wav, np.zeros(100, np.float32), 8000)
    with pytest.raises(DatasetError, match=r"0\.wav has changed since its features were made"):
        train_clusters(options())


def test_the_encoder_comes_from_the_side_cars_else_from_the_config(
    options: Options, root: Path, tmp_path: Path, make_voices: Callable[..., Any]
) -> None:
    for name in ("alice", "böb"):
        for path in (root / name).glob("*.soft.pt"):
            torch.save(units(3, 20, dim=384)[None], path)
    voices = make_voices((20,))  # writes a config: whisper-ppg-tiny, 384 wide
    config = voices.config_path
    assert train_clusters(options(config=config)).facts.encoder == "whisper-ppg-tiny"
    assert train_clusters(options()).facts.encoder is None
    add(root / "alice", "0", units(3, 20, dim=384), units={"speech_encoder": "other"})
    assert train_clusters(options(config=config)).facts.encoder == "other"
    (root / "alice" / "0.wav.meta.json").write_text("damaged")
    assert train_clusters(options()).facts.encoder is None


def test_a_config_of_another_width_says_nothing(
    options: Options, make_voices: Callable[..., Any]
) -> None:
    config = make_voices((20,)).config_path
    assert train_clusters(options(config=config)).facts.encoder is None


def test_features_of_svc_preprocess(options: Options, make_voices: Callable[..., Any]) -> None:
    voices = make_voices((60, 45))
    report = train_clusters(options(dataset=voices.root))
    assert report.facts.encoder == "whisper-ppg-tiny"
    assert report.facts.dim == 384


# -------------------------------------------------------------------------------------- earlier files


def build(options: ClusterOptions) -> ClusterReport:
    return train_clusters(options)


def test_other_speakers_of_an_earlier_file_stay(options: Options, root: Path) -> None:
    before = build(options())
    old = read_centres(before.path)
    torch.save(units(99, 40)[None], root / "alice" / "0.wav.soft.pt")
    report = build(options(speakers=("alice",), seed=5))
    assert (report.built, report.kept) == (("alice",), ("böb",))
    now = read_centres(report.path)
    assert torch.equal(now["böb"], old["böb"])
    assert not torch.equal(now["alice"], old["alice"])
    assert report.facts.speakers["böb"] == before.facts.speakers["böb"]
    # without --speakers the file is new
    for path in (root / "böb").iterdir():
        path.unlink()
    assert set(read_centres(build(options()).path)) == {"alice"}


def test_a_file_of_the_original_is_added_to(options: Options) -> None:
    path = build(options()).path
    side_car_path(path).unlink()
    report = build(options(speakers=("alice",)))
    assert report.kept == ("böb",)
    assert set(report.facts.speakers) == {"alice"}
    assert set(read_centres(path)) == {"alice", "böb"}


@pytest.mark.parametrize("change", ["width", "encoder"])
def test_speakers_of_another_encoder_cannot_stay(
    options: Options, root: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    for name in ("alice", "böb"):
        add(root / name, "0", units(), units={"speech_encoder": "vec768l12"})
    build(options())
    for path in (root / "alice").glob("*.soft.pt"):
        torch.save(units(1, 20, dim=9 if change == "width" else 6)[None], path)
    if change == "encoder":
        add(root / "alice", "0", units(), units={"speech_encoder": "cnhubertlarge"})
    monkeypatch.setattr(clusters, "fit_kmeans", lambda *a, **k: pytest.fail("k-means was begun"))
    with pytest.raises(ConfigError, match="has centres of böb of another encoder"):
        build(options(speakers=("alice",)))


def test_an_encoder_that_is_not_known_of_all_is_not_claimed(options: Options, root: Path) -> None:
    build(options())
    add(root / "alice", "0", units(), units={"speech_encoder": "vec768l12"})
    assert build(options(speakers=("alice",))).facts.encoder is None
    assert build(options()).facts.encoder == "vec768l12"


# --------------------------------------------------------------------------------- devices and disks


@pytest.mark.usefixtures("no_work")
def test_what_cannot_be_written_or_computed(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DeviceError, match='"cuda:77" is not available'):
        train_clusters(options(device="cuda:77"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="a file of that name is there"):
        train_clusters(options(output=tmp_path / "file"))
    (tmp_path / "logs" / "kmeans_8.pt").mkdir(parents=True)
    with pytest.raises(OutputError, match="a folder of that name is in the way"):
        train_clusters(options())
    full = clusters.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(clusters.shutil, "disk_usage", lambda _: full)
    with pytest.raises(OutputError, match="free some space"):
        train_clusters(options(k=9))


def test_a_file_that_changes_meanwhile(
    options: Options, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(*_: Any) -> None:
        torch.save(units(0, 77)[None], root / "böb" / "2.wav.soft.pt")

    monkeypatch.setattr(clusters, "_check_output", change)
    with pytest.raises(DatasetError, match="has changed meanwhile"):
        train_clusters(options())
