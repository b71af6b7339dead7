from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from svc.checkpoint import save_checkpoint, save_safetensors
from svc.config import DiffusionConfig, find_template, load_diffusion_config, save_diffusion_config
from svc.diffusion import Unit2Mel, load_diffusion
from svc.errors import CheckpointError, ConfigError, MissingFileError

Voice = Callable[..., Path]
SPK = {"a": 0, "b": 2}


@pytest.fixture
def config() -> DiffusionConfig:
    template = load_diffusion_config(find_template("diffusion_template.yaml"))
    sizes = {"n_layers": 2, "n_chans": 16, "n_hidden": 12, "n_spk": 3, "timesteps": 60}
    return dataclasses.replace(
        template,
        data=dataclasses.replace(template.data, encoder="vec256l9", encoder_out_channels=256),
        model=dataclasses.replace(template.model, **sizes, k_step_max=40),
        spk=dict(SPK),
    )


@pytest.fixture
def voice(tmp_path: Path, config: DiffusionConfig) -> Voice:
    """Return a function that writes model_120.pt and config.yaml and returns the former."""

    def write(**sections: dict[str, Any]) -> Path:
        torch.manual_seed(0)
        net = Unit2Mel.from_config(config, n_mels=6)
        path = tmp_path / "model_120.pt"
        save_checkpoint({"global_step": 120, "model": net.state_dict()}, path)
        changed = {
            name: dataclasses.replace(getattr(config, name), **keys)
            for name, keys in sections.items()
        }
        save_diffusion_config(dataclasses.replace(config, **changed), tmp_path / "config.yaml")
        return path

    return write


def stored(path: Path) -> dict[str, Any]:
    from svc.checkpoint import load_checkpoint

    return load_checkpoint(path)


def test_a_saved_voice_comes_back(voice: Voice) -> None:
    path = voice()
    net, config = load_diffusion(path)
    assert config.spk == SPK
    assert (net.global_step, net.n_mels, net.n_spk) == (120, 6, 3)
    assert (net.timesteps, net.k_step_max, net.only_refines) == (60, 40, True)
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    state = stored(path)["model"]
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())
    mel = net.infer(
        torch.randn(1, 4, 256), torch.full((1, 4), 200.0), torch.ones(1, 4),
        torch.tensor([2]), mel=torch.zeros(1, 6, 4), k_step=40,
    )  # fmt: skip
    assert mel.shape == (1, 6, 4)


def test_a_config_elsewhere_and_safetensors(voice: Voice, tmp_path: Path) -> None:
    path = voice()
    other = tmp_path / "other"
    other.mkdir()
    save_safetensors(stored(path)["model"], other / "m.safetensors")
    net, _ = load_diffusion(other / "m.safetensors", tmp_path / "config.yaml")
    assert net.global_step == 0
    with pytest.raises(MissingFileError, match=r"other.config\.yaml is not there"):
        load_diffusion(other / "m.safetensors")


def test_limits_of_the_file_are_used(voice: Voice) -> None:
    path = voice()
    content = stored(path)
    content["model"]["decoder.spec_min"].fill_(-7)
    save_checkpoint(content, path)
    net, _ = load_diffusion(path)
    assert float(net.decoder.normalize(torch.full((1, 6, 1), -7.0)).max()) == -1


def test_half_files_are_converted_and_their_schedule_is_not_half(voice: Voice) -> None:
    path = voice()
    content = stored(path)
    whole, _ = load_diffusion(path)
    content["model"] = {name: tensor.half() for name, tensor in content["model"].items()}
    save_checkpoint(content, path)
    net, _ = load_diffusion(path)
    assert {tensor.dtype for tensor in net.state_dict().values()} == {torch.float32}
    assert torch.equal(net.decoder.betas, whole.decoder.betas)
    assert torch.equal(net.decoder.alphas_cumprod, whole.decoder.alphas_cumprod)
    torch.testing.assert_close(net.unit_embed.weight, whole.unit_embed.weight, atol=1e-4, rtol=1e-2)
    assert not torch.equal(net.unit_embed.weight, whole.unit_embed.weight)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"data": {"encoder": "vec768l12", "encoder_out_channels": 768}},
            ["256 wide such as", "hubertsoft", "config says vec768l12", "encoder_out_channels 768"],
        ),
        ({"model": {"n_spk": 5}}, ["trained with 3 speakers, model.n_spk is 5"]),
        ({"model": {"n_spk": None}}, ["trained with 3 speakers, model.n_spk is 1"]),
        ({"model": {"n_chans": 32}}, ["16 channels, model.n_chans is 32"]),
        ({"model": {"n_hidden": 24}}, ["12 hidden channels"]),
        ({"model": {"n_layers": 3}}, ["2 layers, model.n_layers is 3"]),
        ({"model": {"timesteps": None}}, ["60 steps of noise, model.timesteps is 1000"]),
        ({"model": {"use_pitch_aug": False}}, ["with pitch augmentation"]),
    ],
)
def test_another_config_is_explained(
    voice: Voice, tmp_path: Path, sections: dict[str, Any], words: list[str]
) -> None:
    path = voice(**sections)
    with pytest.raises(CheckpointError) as caught:
        load_diffusion(path)
    text = str(caught.value)
    for word in (str(path), str(tmp_path / "config.yaml"), *words, "Next: use the config.yaml"):
        assert word in text
    assert "\n" not in text
    assert "residual_layers" not in text


def test_damaged_and_other_files(voice: Voice, tmp_path: Path) -> None:
    path = voice()
    content = stored(path)
    with pytest.raises(MissingFileError, match=r"model_0\.pt is not there"):
        load_diffusion(tmp_path / "model_0.pt")
    missing = dict(content["model"])
    del missing["f0_embed.bias"]
    save_checkpoint({"model": missing}, path)
    with pytest.raises(CheckpointError, match=r"missing in the file: f0_embed\.bias"):
        load_diffusion(path)
    for other, words in (
        ({"model": {"emb_g.weight": torch.zeros(2, 2)}}, "holds a synthesizer's weights"),
        ({"model": [1, 2]}, "no diffusion voice"),
        ({"step": 3}, "no diffusion voice"),
    ):
        save_checkpoint(other, path)
        with pytest.raises(CheckpointError, match=words) as caught:
            load_diffusion(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"PK half a file")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        load_diffusion(path)


def test_a_table_of_speakers_that_the_net_has_not(voice: Voice, tmp_path: Path) -> None:
    path = voice()
    where = tmp_path / "config.yaml"
    raw = yaml.safe_load(where.read_text())
    where.write_text(yaml.safe_dump({**raw, "spk": {"a": 0, "z": 3}}))
    with pytest.raises(ConfigError, match=r'"spk\.z" is 3.*0 to 2'):
        load_diffusion(path)


def test_speedup_1_says_that_it_is_ddpm(voice: Voice, caplog: pytest.LogCaptureFixture) -> None:
    path = voice()
    with caplog.at_level(logging.WARNING):
        load_diffusion(path)
        assert not caplog.records
        load_diffusion(voice(infer={"speedup": 1, "method": None}))
        assert not caplog.records
        load_diffusion(voice(infer={"speedup": 1, "method": "unipc"}))
    (record,) = caplog.records
    assert "every step of ddpm, infer.method unipc is not used" in record.getMessage()


def test_an_unknown_method_is_named_with_its_file(voice: Voice) -> None:
    path = voice(infer={"method": "euler"})
    with pytest.raises(
        ConfigError, match=r'config\.yaml: infer.method "euler" is unknown; use ddpm'
    ):
        load_diffusion(path)
