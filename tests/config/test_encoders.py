"""Names, widths and paths of content encoders, alone and fused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from svc.config import (
    SPEECH_ENCODER_DIMS,
    check_encoder_width,
    encoder_dim,
    encoder_paths,
    encoders_of_width,
    find_template,
    load_config,
    load_diffusion_config,
    new_config,
    parse_config,
    save_config,
    split_encoders,
)
from svc.errors import ConfigError

FUSED = "vec768l12+whisper-ppg-tiny"


@pytest.mark.parametrize(
    ("name", "parts", "dim"),
    [
        ("wavlmbase+", ("wavlmbase+",), 768),
        ("wavlmbase++whisper-ppg-tiny", ("wavlmbase+", "whisper-ppg-tiny"), 1152),
        ("vec768l12+wavlmbase+", ("vec768l12", "wavlmbase+"), 1536),
        (FUSED, ("vec768l12", "whisper-ppg-tiny"), 1152),
        ("whisper-ppg+vec256l9-onnx", ("whisper-ppg", "vec256l9-onnx"), 1280),
        ("whisper-ppg-large+whisper-ppg", ("whisper-ppg-large", "whisper-ppg"), 2304),
    ],
)
def test_a_name_stands_for_its_parts(name: str, parts: tuple[str, ...], dim: int) -> None:
    assert split_encoders(name) == parts
    assert encoder_dim(name) == dim


def test_every_name_and_every_pair_is_read_back() -> None:
    assert all(split_encoders(name) == (name,) for name in SPEECH_ENCODER_DIMS)
    for pair in itertools.permutations(SPEECH_ENCODER_DIMS, 2):
        assert split_encoders("+".join(pair)) == pair


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vec768l21", r'^unknown speech encoder "vec768l21"; did you mean "vec768l12"\?$'),
        ("wavlmbase", r'did you mean "wavlmbase\+"'),
        ("vec768l21+whisper-ppg-tiny", r'"vec768l21" in "vec768l21\+whisper-ppg-tiny".*vec768l12'),
        ("vec768l12+whisper-pgg", r'"whisper-pgg" in ".*did you mean "whisper-ppg"'),
        ("zzz", "known: vec768l12, vec256l9, .*whisper-ppg-tiny"),
        ("vec768l12+", 'lacks a name beside the "\\+"'),
        ("+vec768l12", "lacks a name"),
        ("", "lacks a name"),
        ("wavlmbase++", "lacks a name"),
        ("vec768l12+vec768l12", "a fusion of 2: give two different ones"),
        ("vec768l12+dphubert+hubertsoft", "a fusion of 3: give two different ones"),
    ],
)
def test_wrong_names_are_explained(name: str, message: str) -> None:
    for read in (split_encoders, encoder_dim):
        with pytest.raises(ConfigError, match=message):
            read(name)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("vec768l12", None, {}),
        (FUSED, "", {}),
        ("vec768l12", "a/b.pt", {"vec768l12": "a/b.pt"}),
        ("vec768l12", "vec768l12=a/b.pt", {"vec768l12": "a/b.pt"}),
        ("vec768l12", "a=b,c/x=1.pt", {"vec768l12": "a=b,c/x=1.pt"}),
        (FUSED, "whisper-ppg-tiny=w.pt", {"whisper-ppg-tiny": "w.pt"}),
        (
            FUSED,
            "vec768l12=a, b=c.pt,whisper-ppg-tiny=folder",
            {"vec768l12": "a, b=c.pt", "whisper-ppg-tiny": "folder"},
        ),
        ("wavlmbase+", "wavlmbase+=w.pt", {"wavlmbase+": "w.pt"}),
    ],
)
def test_paths_of_encoders(name: str, text: str | None, expected: dict[str, str]) -> None:
    assert encoder_paths(name, text) == {part: Path(path) for part, path in expected.items()}


def test_paths_may_begin_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for text in ("~/a.pt", "vec768l12=~/a.pt"):
        assert encoder_paths("vec768l12", text) == {"vec768l12": tmp_path / "a.pt"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (FUSED, "a.pt", "is two encoders, say whose file it is: vec768l12=a.pt"),
        (FUSED, "vec256l9=a.pt", "--encoder_path vec256l9=a.pt: .*vec768l12, whisper-ppg-tiny"),
        ("vec768l12", "vec256l9=a.pt", "expected one ID=PATH for each ID of vec768l12"),
        ("vec768l12", "vec768l12=", "expected one ID=PATH"),
        ("vec768l12", "vec768l12=a,vec768l12=b", "expected one ID=PATH"),
    ],
)
def test_wrong_paths_are_explained(name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encoder_paths(name, text)
    with pytest.raises(ConfigError, match=r'^"model\.encoder_path"'):
        encoder_paths(name, text, what='"model.encoder_path"')


def test_encoders_of_a_width() -> None:
    assert encoders_of_width(384) == ["whisper-ppg-tiny"]
    assert encoders_of_width(256)[0] == "vec256l9"
    assert FUSED in encoders_of_width(1152)
    assert all(encoder_dim(name) == 1152 for name in encoders_of_width(1152))
    assert encoders_of_width(7) == []


def test_a_width_that_does_not_fit_is_one_line_with_all_of_it() -> None:
    check_encoder_width(FUSED, 1152, where="c.json", advice="do this")
    check_encoder_width("stub", 8, where="c.json", advice="do this", width=8)
    with pytest.raises(ConfigError) as caught:
        check_encoder_width(FUSED, 384, where="c.json", advice="do this")
    text = str(caught.value)
    assert text.startswith(f'c.json asks for the speech encoder "{FUSED}", whose units are 1152')
    assert '384 wide ("model.ssl_dim"), like those of whisper-ppg-tiny: do this' in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("encoder", "ssl_dim", "gin", "filters"),
    [
        ("vec768l12+whisper-ppg-tiny", 1152, 768, 768),
        ("whisper-ppg-tiny+vec768l12", 1152, 384, 768),
        ("whisper-ppg+vec256l9", 1280, 1024, 1024),
        ("vec256l9+cnhubertlarge", 1280, 256, 768),
        ("vec256l9-onnx", 256, 256, 768),
        ("vec256l12-onnx", 256, 256, 768),
        ("hubertsoft-onnx", 256, 256, 768),
        ("vec768l12-onnx", 768, 768, 768),
    ],
)
def test_a_new_config_follows_the_first_encoder(
    encoder: str, ssl_dim: int, gin: int, filters: int
) -> None:
    template = load_config(find_template("template.json"))
    model = new_config(template, speech_encoder=encoder, speakers={"a": 0}).model
    assert model.speech_encoder == encoder
    assert (model.ssl_dim, model.gin_channels, model.filter_channels) == (ssl_dim, gin, filters)


def test_a_fused_config_serves_as_a_template() -> None:
    template = load_config(find_template("template.json"))
    fused = new_config(template, speech_encoder=FUSED, speakers={"a": 0})
    again = new_config(fused, speech_encoder="vec256l9", speakers={"a": 0}).model
    assert (again.ssl_dim, again.gin_channels) == (256, 256)


def test_the_quick_template_keeps_its_small_speaker_embedding() -> None:
    template = load_config(find_template("template_quick.json"))
    model = new_config(template, speech_encoder=FUSED, speakers={"a": 0}).model
    assert model.ssl_dim == 1152
    assert model.gin_channels == template.model.gin_channels < 384
    assert model.filter_channels == template.model.filter_channels


def test_a_fusion_and_its_paths_survive_the_file(tmp_path: Path) -> None:
    template = load_config(find_template("template.json"))
    paths = "vec768l12=weights/my vec,whisper-ppg-tiny=t.pt"
    config = new_config(template, speech_encoder=FUSED, speakers={"声": 0}, encoder_path=paths)
    save_config(config, tmp_path / "c.json")
    raw = json.loads((tmp_path / "c.json").read_text())
    assert (raw["model"]["speech_encoder"], raw["model"]["encoder_path"]) == (FUSED, paths)
    assert load_config(tmp_path / "c.json").model == config.model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speech_encoder": "vec768l12+whisper-pgg"}, r'"model\.speech_encoder": .*"whisper-pgg"'),
        ({"speech_encoder": "vec768l12+nothing"}, r'"model\.speech_encoder": .*"nothing" in'),
        ({"speech_encoder": "dphubert+dphubert"}, ".*two different ones"),
        ({"speech_encoder": FUSED, "encoder_path": "a.pt"}, r'"model\.encoder_path" a\.pt: '),
        ({"encoder_path": "dphubert=a.pt"}, r'"model\.encoder_path" dphubert=a\.pt'),
    ],
)
def test_config_mistakes_name_key_and_part(change: dict[str, Any], message: str) -> None:
    raw = json.loads(find_template("template.json").read_text())
    raw["model"].update(change)
    with pytest.raises(ConfigError, match=rf"^voice\.json: {message}"):
        parse_config(raw, where="voice.json")


def test_a_new_config_refuses_a_path_of_nobody() -> None:
    template = load_config(find_template("template.json"))
    with pytest.raises(ConfigError, match="say whose file it is"):
        new_config(template, speech_encoder=FUSED, speakers={"a": 0}, encoder_path="a.pt")


def test_the_diffusion_config_names_bad_parts(tmp_path: Path) -> None:
    raw = yaml.safe_load(find_template("diffusion_template.yaml").read_text())
    for encoder, message in (
        ("vec768l12+whisper-pgg", r'"data\.encoder": .*"whisper-pgg" in'),
        ("vec768", r'"data\.encoder": unknown speech encoder "vec768"'),
    ):
        raw["data"]["encoder"] = encoder
        (tmp_path / "d.yaml").write_text(yaml.safe_dump(raw))
        with pytest.raises(ConfigError, match=message):
            load_diffusion_config(tmp_path / "d.yaml")
    raw["data"].update(encoder=FUSED, encoder_out_channels=1152)
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(raw))
    assert load_diffusion_config(tmp_path / "d.yaml").data.encoder == FUSED
