"""Config files: the original's read unchanged, mistakes are named."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from svc.config import (
    find_template,
    load_config,
    load_diffusion_config,
    new_config,
    new_diffusion_config,
    parse_config,
    save_config,
    save_diffusion_config,
)
from svc.config.encoders import SPEECH_ENCODER_DIMS
from svc.errors import ConfigError, MissingFileError

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = ["template.json", "template_tiny.json", "template_quick.json"]


@pytest.fixture
def template() -> dict[str, Any]:
    raw: dict[str, Any] = json.loads((ROOT / "configs/template.json").read_text())
    return raw


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_round_trip(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = load_config(find_template(name))
    save_config(config, tmp_path / "config.json")
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(
        find_template(name).read_text()
    )
    assert not caplog.records


def test_original_configs_load_unchanged(shared: Path) -> None:
    files = sorted((shared / "spec" / "tables").glob("config_*.json"))
    assert len(files) == 15
    for file in files:
        raw = json.loads(file.read_text())
        raw.setdefault("spk", {"a": 0})
        assert parse_config(raw, where=file.name).to_dict() == raw


def test_templates_hold_the_original_values(shared: Path) -> None:
    tables = shared / "spec" / "tables"
    for name, table in (("template", "default_vec768l12"), ("template_tiny", "tiny")):
        ours = json.loads((ROOT / f"configs/{name}.json").read_text())
        original = json.loads((tables / f"config_{table}.json").read_text())
        assert {key: ours[key] for key in ("train", "data", "model")} == {
            key: original[key] for key in ("train", "data", "model")
        }


def test_a_40_config_is_read(template: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    for section, keys in {
        "train": ("half_type", "all_in_mem", "vol_aug", "keep_ckpts"),
        "data": ("unit_interpolate_mode",),
        "model": (
            "speech_encoder",
            "vol_embedding",
            "use_depthwise_conv",
            "vocoder_name",
            "use_automatic_f0_prediction",
            "n_flow_layer",
        ),
    }.items():
        for key in keys:
            del template[section][key]
    template["model"].update(ssl_dim=256, gin_channels=256)
    with caplog.at_level(logging.WARNING):
        config = parse_config(template, where="config.json")
    assert config.model.speech_encoder == "vec256l9"
    assert "vec256l9" in caplog.text
    assert config.data.unit_interpolate_mode == "left"
    assert config.model.use_automatic_f0_prediction is True
    assert config.model.vol_embedding is False
    assert config.train.keep_ckpts == 0


def test_unknown_keys_warn_once_with_the_nearest_name_and_survive(
    template: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    template["train"]["batchsize"] = 4
    template["model"]["zzz"] = [1]
    template["note"] = "mine"
    with caplog.at_level(logging.WARNING):
        config = parse_config(template, where="c.json")
    assert len(caplog.records) == 1
    assert 'train.batchsize" (did you mean "batch_size"?)' in caplog.text
    assert '"model.zzz"' in caplog.text
    save_config(config, tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text()) == template


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("train", "batch_size", "six", "\"train.batch_size\" must be a whole number, found 'six'"),
        ("train", "fp16_run", 1, '"train.fp16_run" must be true or false'),
        ("train", "learning_rate", None, '"train.learning_rate" must be a number'),
        ("train", "batch_size", 2.5, "whole number"),
        ("data", "hop_length", True, "whole number"),
        ("model", "upsample_rates", [8, "8"], "a list of a whole number"),
        ("model", "upsample_rates", [8, 8, 2, 2], "go in pairs"),
        ("data", "hop_length", 256, 'must equal "data.hop_length"'),
        ("model", "speech_encoder", "vec768l21", 'did you mean "vec768l12"'),
        ("model", "vocoder_name", "hifigan", "nsf-hifigan, nsf-snake-hifigan"),
        ("train", "batch_size", 0, "at least 1"),
    ],
)
def test_wrong_values_name_file_key_and_expectation(
    template: dict[str, Any], section: str, key: str, value: Any, expected: str
) -> None:
    template[section][key] = value
    with pytest.raises(ConfigError) as caught:
        parse_config(template, where="voice.json")
    assert expected in str(caught.value)
    assert str(caught.value).startswith("voice.json: ")
    assert str(caught.value).count("voice.json") == 1


@pytest.mark.parametrize(
    ("section", "key"), [("model", "ssl_dim"), ("train", "segment_size"), ("data", "hop_length")]
)
def test_missing_keys_are_named(template: dict[str, Any], section: str, key: str) -> None:
    del template[section][key]
    with pytest.raises(ConfigError, match=rf'"{section}\.{key}" is missing'):
        parse_config(template, where="voice.json")


@pytest.mark.parametrize("section", ["train", "data", "model", "spk"])
def test_missing_sections_are_named(template: dict[str, Any], section: str) -> None:
    del template[section]
    with pytest.raises(ConfigError, match=f'"{section}" is missing'):
        parse_config(template, where="voice.json")


@pytest.mark.parametrize("spk", [{}, [], {"a": "0"}, {"a": -1}, {"a": True}, {"a": 0, "b": 0}])
def test_bad_speaker_tables(template: dict[str, Any], spk: Any) -> None:
    template["spk"] = spk
    with pytest.raises(ConfigError, match="spk"):
        parse_config(template, where="voice.json")


def test_a_speaker_may_have_any_name(template: dict[str, Any], tmp_path: Path) -> None:
    names = ["keys", "items", "君の|知らない", "emoji 🎤", 'quo"te', "__class__"]
    template["spk"] = {name: index for index, name in enumerate(names)}
    config = parse_config(template, where="voice.json")
    save_config(config, tmp_path / "c.json")
    assert list(load_config(tmp_path / "c.json").spk) == names


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"{", "not valid JSON at line 1"), (b"\xff\xfe\x00", "UTF-8"), (b"[1]", "JSON object")],
)
def test_broken_files(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(ConfigError, match=expected):
        load_config(tmp_path / "c.json")
    with pytest.raises(MissingFileError, match="none"):
        load_config(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("encoder", "gin", "filters"),
    [
        ("vec768l12", 768, 768),
        ("vec256l9", 256, 768),
        ("hubertsoft", 256, 768),
        ("whisper-ppg", 1024, 1024),
        ("whisper-ppg-large", 1280, 1280),
        ("cnhubertlarge", 1024, 1024),
        ("whisper-ppg-tiny", 384, 768),
        ("whisper-ppg-small", 768, 768),
    ],
)
def test_new_config_sets_the_widths_of_the_encoder(encoder: str, gin: int, filters: int) -> None:
    config = new_config(
        load_config(find_template("template.json")),
        speech_encoder=encoder,
        speakers={"a": 0, "b": 1},
    )
    assert config.model.ssl_dim == SPEECH_ENCODER_DIMS[encoder] == gin
    assert (config.model.gin_channels, config.model.filter_channels) == (gin, filters)
    assert config.model.n_speakers == 2
    tiny = new_config(
        load_config(find_template("template_tiny.json")),
        speech_encoder=encoder,
        speakers={"a": 0},
        vol_aug=True,
        tiny=True,
    )
    assert tiny.model.filter_channels == 512
    assert tiny.train.vol_aug
    assert tiny.model.vol_embedding


def test_new_config_refuses_an_unknown_encoder(template: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match='did you mean "whisper-ppg"'):
        new_config(
            parse_config(template, where="t"), speech_encoder="whisper_ppg", speakers={"a": 0}
        )


def test_diffusion_template_round_trips(tmp_path: Path) -> None:
    source = find_template("diffusion_template.yaml")
    config = load_diffusion_config(source)
    assert config.to_dict() == yaml.safe_load(source.read_text())
    ready = new_diffusion_config(
        config, encoder="whisper-ppg", encoder_out_channels=1024, speakers={"声": 0, "b": 1}
    )
    save_diffusion_config(ready, tmp_path / "d.yaml")
    again = load_diffusion_config(tmp_path / "d.yaml")
    assert (again.model.n_spk, again.data.encoder_out_channels) == (2, 1024)
    assert again.spk == {"声": 0, "b": 1}


def test_diffusion_mistakes_are_named(tmp_path: Path) -> None:
    raw = yaml.safe_load(find_template("diffusion_template.yaml").read_text())
    broken = copy.deepcopy(raw)
    del broken["data"]["encoder"]
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(broken))
    with pytest.raises(ConfigError, match=r'"data\.encoder" is missing'):
        load_diffusion_config(tmp_path / "d.yaml")
    broken = copy.deepcopy(raw)
    broken["model"]["n_layers"] = "many"
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(broken))
    with pytest.raises(ConfigError, match=r'"model\.n_layers" must be a whole number'):
        load_diffusion_config(tmp_path / "d.yaml")
    (tmp_path / "d.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_diffusion_config(tmp_path / "d.yaml")


def test_find_template_prefers_the_users_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/template.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert find_template("template.json").read_text() == "{}"
    with pytest.raises(MissingFileError, match="template_tiny"):
        find_template("nothing.json")
