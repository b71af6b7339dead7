"""Where the weights of encoders are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from svc.errors import ConfigError, MissingFileError
from svc.pretrained import whisper_tiny_asset
from svc.speech.locate import check_given, files_of, locate_encoder

FUSED = "vec768l12+whisper-ppg-tiny"


@pytest.fixture
def pretrain(tmp_path: Path) -> Path:
    """A pretrain folder with ContentVec in it, and weights elsewhere."""
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/checkpoint_best_legacy_500.pt").touch()
    (tmp_path / "mine.pt").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/model.safetensors").touch()
    return tmp_path / "pretrain"


def test_default_files_and_the_bundled_encoder(pretrain: Path) -> None:
    vec = pretrain / "checkpoint_best_legacy_500.pt"
    assert locate_encoder("vec256l9", None, pretrain) == {"vec256l9": vec}
    assert list(locate_encoder(FUSED, None, pretrain).items()) == [
        ("vec768l12", vec),
        ("whisper-ppg-tiny", whisper_tiny_asset()),
    ]
    (pretrain / "tiny.pt").touch()
    assert locate_encoder(FUSED, {}, pretrain)["whisper-ppg-tiny"] == pretrain / "tiny.pt"


def test_given_paths_come_first(pretrain: Path) -> None:
    mine, folder = pretrain.parent / "mine.pt", pretrain.parent / "folder"
    for paths in (mine, {"vec768l12": mine}):
        assert locate_encoder("vec768l12", paths, pretrain) == {"vec768l12": mine}
    found = locate_encoder(f"wavlmbase++{FUSED.split('+')[0]}", {"wavlmbase+": folder}, pretrain)
    assert found["wavlmbase+"] == folder
    assert found["vec768l12"].parent == pretrain
    assert check_given(FUSED, {"whisper-ppg-tiny": mine}) == {"whisper-ppg-tiny": mine}


def test_what_is_missing_is_named(pretrain: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"medium\.pt is missing.*whisper-ppg"):
        locate_encoder("vec768l12+whisper-ppg", None, pretrain)
    assert check_given("whisper-ppg", None) == {}
    with pytest.raises(MissingFileError, match=r"gone\.pt is not there, the weights of vec768l12"):
        locate_encoder(FUSED, {"vec768l12": tmp_path / "gone.pt"}, pretrain)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match="empty has no weights"):
        check_given("vec768l12", tmp_path / "empty")


def test_paths_for_nobody_are_refused(pretrain: Path) -> None:
    mine = pretrain.parent / "mine.pt"
    with pytest.raises(ConfigError, match=r"say whose file it is: --encoder_path vec768l12=.*mine"):
        locate_encoder(FUSED, mine, pretrain)
    with pytest.raises(ConfigError, match=r'mine\.pt is given for "vec256l9"'):
        locate_encoder(FUSED, {"vec256l9": mine}, pretrain)
    with pytest.raises(ConfigError, match="unknown speech encoder"):
        locate_encoder("vec768", None, pretrain)


def test_every_encoder_has_a_default_place(tmp_path: Path) -> None:
    from svc.config import SPEECH_ENCODER_DIMS

    for name in SPEECH_ENCODER_DIMS:
        if name == "whisper-ppg-tiny":
            continue
        with pytest.raises(MissingFileError, match=str(tmp_path)) as caught:
            locate_encoder(name, None, tmp_path)
        missing = Path(str(caught.value).split(" is missing")[0])
        missing.touch()
        assert locate_encoder(name, None, tmp_path) == {name: missing}
        missing.unlink()


def test_the_files_that_are_read(pretrain: Path) -> None:
    folder = pretrain.parent / "folder"
    for name in ("config.json", "tokenizer.json"):
        (folder / name).touch()
    weights, config = folder / "model.safetensors", folder / "config.json"
    assert files_of(folder) == files_of(weights) == [weights, config]
    assert files_of(pretrain.parent / "mine.pt") == [pretrain.parent / "mine.pt"]
