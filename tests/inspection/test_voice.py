"""Checkpoints of a voice: their facts are those of the config that made them, and only that config fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from svc.checkpoint import load_checkpoint, save_checkpoint, save_safetensors
from svc.config import SvcConfig, load_config, save_config
from svc.errors import ConfigError
from svc.inspection import Report, load_settings
from svc.inspection.readers import _recognise
from svc.inspection.report import Finding
from svc.inspection.weights import Weights
from svc.synthesizer import Synthesizer
from svc.vocoder.discriminator import Discriminator

VARIANTS = {  # name of the tables: numbers that the spec has counted
    "default_vec768l12": 52_402_957, "depthwise": 43_008_781, "flow_share_parameter": None,
    "no_auto_f0": 45_935_436, "resblock2": None, "snake": None, "tiny": None, "tiny_snake": None,
    "tiny_vec256l9": None, "transformer_flow": 64_057_357, "transformer_flow_shared": None,
    "vec256l9": 45_157_133, "vol_embedding": None, "whisper1024": 59_567_885,
    "whisperlarge1280": 66_732_813,
}  # fmt: skip
TOLD = (
    "ssl_dim", "gin_channels", "n_speakers", "inter_channels", "hidden_channels", "filter_channels",
    "n_heads", "n_layers", "kernel_size", "vocoder_name", "upsample_initial_channel",
    "use_transformer_flow", "n_flow_layer", "flow_share_parameter", "use_depthwise_conv",
    "vol_embedding", "use_automatic_f0_prediction",
)  # fmt: skip


def config_of(tables: Path, variant: str) -> SvcConfig:
    return load_config(tables / f"config_{variant}.json")


def found(weights: Weights, kind: str) -> Finding:
    finding = _recognise(weights)
    assert finding.kind == kind
    return finding


@pytest.mark.parametrize("variant", VARIANTS)
def test_facts_are_those_of_the_config(
    table: Callable[..., Weights], tables: Path, variant: str
) -> None:
    config = config_of(tables, variant)
    facts = found(table(f"G_{variant}"), "voice").facts
    assert {key: facts[key] for key in TOLD} == {key: getattr(config.model, key) for key in TOLD}
    assert facts["resblock_kernel_sizes"] == list(config.model.resblock_kernel_sizes)
    assert facts["upsample_kernel_sizes"] == list(config.model.upsample_kernel_sizes)
    assert facts["resblock"] == config.model.resblock
    assert facts["filter_length"] == config.data.filter_length
    assert facts["posterior_encoder"] is facts["weight_norm"] is True
    if VARIANTS[variant] is not None:
        assert facts["values"] == VARIANTS[variant]


@pytest.mark.parametrize("variant", ["default_vec768l12", "tiny_snake", "vec256l9"])
def test_only_its_own_config_fits(
    table: Callable[..., Weights], tables: Path, variant: str
) -> None:
    compare = found(table(f"G_{variant}"), "voice").compare
    assert compare is not None
    for other in VARIANTS:
        assert (compare(config_of(tables, other)) == []) == (other == variant), other


def test_which_encoders_and_which_generation(table: Callable[..., Weights]) -> None:
    usual = found(table("G_default_vec768l12"), "voice")
    assert "4.1" in usual.what
    assert "4.0" not in usual.what
    assert "vec768l12" in usual.fits[1]
    assert "model has ssl_dim 768, gin_channels 768" in usual.fits[0]
    old = found(table("G_vec256l9"), "voice")
    assert "4.0" in old.what
    assert "vec256l9" in old.fits[1]
    assert "4.0" not in found(table("G_tiny_vec256l9"), "voice").what


def test_a_kernel_that_no_fact_covers_is_found(
    table: Callable[..., Weights], tables: Path, make_config: Callable[..., SvcConfig]
) -> None:
    weights = table("G_default_vec768l12")
    name = "dec.resblocks.1.convs2.0.weight_v"
    weights.tensors[name] = torch.empty(256, 256, 9, device="meta")
    compare = found(weights, "voice").compare
    assert compare is not None
    (difference,) = compare(config_of(tables, "default_vec768l12")) or []
    assert name in difference


def test_a_saved_voice(save_voice: Callable[..., Path], look: Callable[..., Report]) -> None:
    path = save_voice()
    report = look(path)
    facts = report.finding.facts
    assert (facts["ssl_dim"], facts["n_speakers"], facts["precision"]) == (384, 2, "float32")
    assert (facts["iteration"], facts["learning_rate"], facts["optimizer"]) == (7, 1e-4, "absent")
    assert report.match is not None
    assert report.match.fits
    assert report.match.path == path.with_name("config.json")
    assert report.safety.safe
    assert report.safety.harmless == 2
    assert report.good
    assert any("sampling rate" in note for note in report.finding.notes)


def test_a_config_that_does_not_fit(
    save_voice: Callable[..., Path], make_config: Callable[..., SvcConfig], look: Callable[..., Report], tmp_path: Path
) -> None:  # fmt: skip
    path = save_voice()
    other = tmp_path / "other.json"
    save_config(make_config(ssl_dim=768, speech_encoder="vec768l12", n_speakers=5), other)
    report = look(path, config=load_settings(other))
    assert report.match is not None
    assert not report.match.fits
    assert "384 wide such as whisper-ppg-tiny, the config says vec768l12" in report.match.differences[0]  # fmt: skip
    assert "trained with 2 speakers, the config says 5" in report.match.differences[1]
    assert report.good, "a wrong config is not the file's fault"


def test_a_config_of_no_net(
    save_voice: Callable[..., Path], make_config: Callable[..., SvcConfig], look: Callable[..., Report], tmp_path: Path
) -> None:  # fmt: skip
    path = save_voice()
    save_config(make_config(resblock_kernel_sizes=[-3]), tmp_path / "config.json")
    match = look(path).match
    assert match is not None
    assert "no net that can be made" in match.differences[0]
    digits = "1" + 400 * "0"
    whole = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(whole.replace('"n_layers": 1', f'"n_layers": {digits}'))
    assert look(path).match is None
    with pytest.raises(ConfigError):
        load_settings(tmp_path / "config.json")


def released(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.half() for name, t in state.items() if not name.startswith("enc_q.")}


def parametrised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    endings = {"weight_g": "original0", "weight_v": "original1"}
    return {
        f"module.{name[:-8]}parametrizations.weight.{endings[name[-8:]]}"
        if name[-8:] in endings
        else f"module.{name}": tensor
        for name, tensor in state.items()
    }


@pytest.mark.parametrize("change", [released, parametrised])
def test_other_spellings(
    save_voice: Callable[..., Path], look: Callable[..., Report], change: Any
) -> None:
    report = look(save_voice("voice.pth", change=change))
    facts = report.finding.facts
    assert report.match is not None
    assert report.match.fits
    assert facts["weight_norm"] is True
    assert facts["posterior_encoder"] is (change is parametrised)
    assert facts["precision"] == ("float16" if change is released else "float32")
    assert any("released" in note for note in report.finding.notes) is (change is released)


def test_a_folded_voice_as_safetensors(
    make_config: Callable[..., SvcConfig], look: Callable[..., Report], tmp_path: Path
) -> None:
    config = make_config()
    net = Synthesizer.from_config(config)
    net.fold_weight_norm()
    path = tmp_path / "voice.safetensors"
    save_safetensors(net.state_dict(), path, {"speakers": "alice"})
    save_config(config, tmp_path / "config.json")
    report = look(path)
    facts = report.finding.facts
    assert (facts["weight_norm"], facts["metadata"]) == (False, {"speakers": "alice"})
    assert facts["upsample_kernel_sizes"] == [16, 16, 4, 4, 4]
    assert report.match is not None
    assert report.match.fits
    assert report.safety.safe
    assert report.safety.harmless is None
    moved = path.rename(tmp_path / "voice.pth")
    assert any(".safetensors" in note for note in look(moved).finding.notes)


def test_what_svc_adds(save_voice: Callable[..., Path], look: Callable[..., Report]) -> None:
    path = save_voice("G_200.pth")
    content = load_checkpoint(path)
    hz = {str(p): 100.0 + p for p in (1, 5, 25, 50, 75, 95, 99)}
    content["svc"] = {
        "step": 300,
        "epoch": 2,
        "version": "1.0",
        "speakers": {"alice": 0},
        "encoder": "whisper-ppg-tiny",
        "config": {"data": {"sampling_rate": 44100, "hop_length": 512}},
        "voice_range": {"alice": {"seconds": 60.0, "hz": hz}},
    }
    parameters = [0, 1]
    state = {i: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)} for i in parameters}
    content["optimizer"] = {"state": state, "param_groups": [{"params": parameters}]}
    save_checkpoint(content, path)
    report = look(path)
    facts = report.finding.facts
    assert (facts["step"], facts["sampling_rate"], facts["speakers"]) == (300, 44100, ["alice"])
    assert (facts["speech_encoder"], facts["svc_version"]) == ("whisper-ppg-tiny", "1.0")
    assert facts["optimizer"] == "state of 2 tensors"
    assert "60 s of voiced sound" in facts["voice_range"]["alice"]
    assert any("promises step 200, the content is of 300" in note for note in report.notes)
    content["svc"]["voice_range"] = {"alice": {"hz": {}}}
    save_checkpoint(content, path)
    assert any("damaged range of a voice" in note for note in look(path).finding.notes)


@pytest.mark.parametrize("spectral", [False, True])
def test_a_discriminator(
    make_config: Callable[..., SvcConfig], look: Callable[..., Report], tmp_path: Path, spectral: bool
) -> None:  # fmt: skip
    net = Discriminator(spectral, 0.03)
    save_checkpoint({"model": net.state_dict(), "iteration": 3}, tmp_path / "D_100.pth")
    changes = {"discriminator_width": 0.03, "use_spectral_norm": spectral}
    save_config(make_config(**changes), tmp_path / "config.json")
    report = look(tmp_path / "D_100.pth")
    assert report.finding.kind == "discriminator"
    assert report.finding.facts["use_spectral_norm"] is spectral
    assert report.match is not None
    assert report.match.fits
    save_config(make_config(use_spectral_norm=spectral), tmp_path / "config.json")
    match = look(tmp_path / "D_100.pth").match
    assert match is not None
    assert not match.fits, "of another width"
    save_config(make_config(use_spectral_norm=not spectral), tmp_path / "config.json")
    match = look(tmp_path / "D_100.pth").match
    assert match is not None
    assert "norm, model.use_spectral_norm is" in match.differences[0]


def test_discriminators_of_the_original(table: Callable[..., Weights], tables: Path) -> None:
    plain, spectral = (found(table(name), "discriminator") for name in ("D", "D_spectral"))
    assert plain.facts["values"] == 46_747_132
    assert (plain.facts["use_spectral_norm"], spectral.facts["use_spectral_norm"]) == (False, True)
    assert plain.compare is not None
    assert plain.compare(config_of(tables, "default_vec768l12")) == []
    assert spectral.compare is not None
    assert spectral.compare(config_of(tables, "default_vec768l12"))


def test_a_voice_without_a_part_is_damaged(
    save_voice: Callable[..., Path], look: Callable[..., Report]
) -> None:
    def cut(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in state.items() if name != "emb_g.weight"}

    report = look(save_voice(change=cut))
    assert report.finding.kind == "voice"
    assert "emb_g.weight" in str(report.damage)


def test_bookkeeping_in_a_voice_is_told(
    save_voice: Callable[..., Path], look: Callable[..., Report]
) -> None:
    import argparse

    path = save_voice()
    content = {**load_checkpoint(path), "args": argparse.Namespace(a=1)}
    torch.save(content, path)
    report = look(path)
    assert report.safety.safe
    assert any("refuses argparse.Namespace" in note for note in report.finding.notes)


def test_a_voice_of_another_program(look: Callable[..., Report], tmp_path: Path) -> None:
    state = {"enc_p.emb_phone.weight": torch.zeros(4, 768), "dec.conv_pre.weight": torch.zeros(1)}
    save_checkpoint({"weight": state, "version": "v2", "sr": "48k", "f0": 1}, tmp_path / "a.pth")
    report = look(tmp_path / "a.pth")
    assert report.finding.kind == "voice of another program"
    assert report.finding.facts["version"] == "v2"
    assert report.finding.facts["units"] == 768
