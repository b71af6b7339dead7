"""Diffusion models, vocoders, content encoders and pitch nets: what they are and what they fit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from svc.checkpoint import save_checkpoint, save_safetensors
from svc.config import SvcConfig, find_template, load_diffusion_config
from svc.f0.crepe_net import crepe_asset
from svc.inspection import Report, load_settings
from svc.inspection.readers import _recognise
from svc.inspection.settings import VocoderSettings
from svc.inspection.weights import Weights
from svc.pretrained import torchfcpe_asset, whisper_tiny_asset

DIFFUSION = {
    "diff_default": (1, True, 191),
    "diff_nspk1_noaug": (1, False, 190),
    "diff_nspk5_aug": (5, True, 192),
    "diff_nspk5_noaug": (5, False, 191),
}


@pytest.mark.parametrize("name", DIFFUSION)
def test_a_diffusion_model(table: Callable[..., Weights], name: str) -> None:
    n_spk, aug, keys = DIFFUSION[name]
    weights = table(name, global_step=12)
    assert len(weights.tensors) == keys
    finding = _recognise(weights)
    facts = finding.facts
    wanted = {"encoder_out_channels": 768, "n_layers": 20, "n_chans": 512, "n_hidden": 256}
    wanted |= {"mel_bins": 128, "timesteps": 1000, "n_spk": n_spk, "use_pitch_aug": aug}
    assert finding.kind == "diffusion model"
    assert {key: facts[key] for key in wanted} == wanted
    assert facts["global_step"] == 12
    config = load_diffusion_config(find_template("diffusion_template.yaml"))
    same = dataclasses.replace(config.model, n_spk=n_spk, use_pitch_aug=aug)
    assert finding.compare is not None
    assert finding.compare(dataclasses.replace(config, model=same)) == []
    other = dataclasses.replace(same, n_layers=9)
    assert finding.compare(dataclasses.replace(config, model=other)) == [
        "n_layers is 20 in the file and 9 in the config"
    ]


def test_a_diffusion_model_finds_its_yaml(look: Callable[..., Report], tmp_path: Path) -> None:
    state = {
        "unit_embed.weight": torch.zeros(8, 16),
        "decoder.betas": torch.zeros(10),
        "decoder.denoise_fn.input_projection.weight": torch.zeros(4, 6, 1),
        "decoder.denoise_fn.residual_layers.0.dilated_conv.bias": torch.zeros(1),
    }
    save_checkpoint({"model": state, "global_step": 5}, tmp_path / "model_5.pt")
    template = find_template("diffusion_template.yaml")
    raw = yaml.safe_load(template.read_text())
    raw["model"] |= {"n_layers": 1, "n_chans": 4, "n_hidden": 8, "timesteps": 10}
    raw["model"] |= {"use_pitch_aug": False, "k_step_max": 10}
    raw["data"] |= {"encoder_out_channels": 16}
    (tmp_path / "any name.yaml").write_text(yaml.safe_dump(raw))
    (tmp_path / "a.yaml").write_text("x: 1")
    match = look(tmp_path / "model_5.pt").match
    assert match is not None
    assert (match.path.name, match.fits) == ("any name.yaml", True)
    match = look(tmp_path / "model_5.pt", config=load_settings(template)).match
    assert match is not None
    assert "encoder_out_channels is 16 in the file and 768 in the config" in match.differences


COMMUNITY = {
    "resblock": "1", "upsample_rates": [8, 8, 2, 2, 2], "upsample_kernel_sizes": [16, 16, 4, 4, 4],
    "upsample_initial_channel": 512, "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5]] * 3, "num_mels": 128, "n_fft": 2048, "hop_size": 512,
    "win_size": 2048, "sampling_rate": 44100, "fmin": 40, "fmax": 16000,
}  # fmt: skip


def test_a_vocoder(table: Callable[..., Weights]) -> None:
    finding = _recognise(table("nsf_hifigan", key="generator"))
    facts = finding.facts
    assert finding.kind == "vocoder"
    assert facts["values"] == 14_178_956
    assert (facts["num_mels"], facts["harmonics"], facts["weight_norm"]) == (128, 9, True)
    assert facts["upsample_rates_after_first"] == [8, 2, 2, 2]
    assert finding.compare is not None
    assert finding.compare(VocoderSettings(COMMUNITY, Path("c"))) == []
    for key, value in (
        ("num_mels", 80), ("upsample_rates", [8, 4, 4, 2, 2]), ("hop_size", 256), ("resblock", "2"),
        ("upsample_kernel_sizes", [16, 16, 4, 4, 8]), ("resblock_kernel_sizes", [3, 5, 7]),
    ):  # fmt: skip
        differences = finding.compare(VocoderSettings({**COMMUNITY, key: value}, Path("c")))
        assert differences
        assert key in differences[0], key


def test_a_vocoder_in_its_folder(
    table: Callable[..., Weights], look: Callable[..., Report], tmp_path: Path
) -> None:
    weights = table("nsf_hifigan", key="generator")
    names = [n for n in weights.tensors if n.startswith(("conv_pre", "ups.", "m_source", "noise"))]
    state = {name: torch.zeros(weights.tensors[name].shape) for name in names if ".0." in name}
    state |= {name: torch.zeros(weights.tensors[name].shape) for name in names if "pre" in name}
    state["m_source.l_linear.weight"] = torch.zeros(1, 9)
    save_checkpoint({"generator": state}, tmp_path / "model.pt")
    (tmp_path / "model.pt").rename(tmp_path / "model")
    (tmp_path / "config.json").write_text(json.dumps(COMMUNITY))
    report = look(tmp_path / "model")
    assert report.match is not None
    assert report.match.path.name == "config.json"
    assert any("upsample_kernel_sizes" in line for line in report.match.differences)
    report = look(tmp_path)
    assert report.finding.facts["model"] == "mel vocoder, NSF-HiFiGAN"
    assert str(report.finding.facts["config.json"]).startswith("config of a mel vocoder")


@pytest.mark.parametrize(
    ("extra", "usable", "words"),
    [
        ("source_conv.weight", True, '"mini_nsf": true'),
        ("m_source.l_linear.weight", True, ""),
        ("other", False, "cannot use it"),
    ],
)
def test_kinds_of_vocoders(
    look: Callable[..., Report], tmp_path: Path, extra: str, usable: bool, words: str
) -> None:
    state = {"conv_pre.weight": torch.zeros(8, 5, 7), "ups.0.weight": torch.zeros(8, 4, 16)}
    state[extra] = torch.zeros(4, 1, 1)
    save_checkpoint({"generator": state}, tmp_path / "model.ckpt")
    finding = look(tmp_path / "model.ckpt").finding
    assert finding.kind == "vocoder"
    assert ("of another kind" in finding.what) != usable
    assert bool(finding.fits) == usable
    assert any(words in note for note in finding.notes)


def test_a_snake_vocoder(look: Callable[..., Report], tmp_path: Path) -> None:
    state = {"conv_pre.weight": torch.zeros(8, 5, 7), "ups.0.weight": torch.zeros(8, 4, 16)}
    state |= {"m_source.l_linear.weight": torch.zeros(1, 9), "snakes.0.act.alpha": torch.zeros(8)}
    save_checkpoint({"generator": state}, tmp_path / "model.ckpt")
    finding = look(tmp_path / "model.ckpt").finding
    assert finding.facts["snake"] is True
    assert any('"snake": true' in note for note in finding.notes)
    assert finding.compare is not None
    for said in (False, True):
        raw = {**COMMUNITY, "num_mels": 5, "upsample_initial_channel": 8, "snake": said}
        found = " ".join(finding.compare(VocoderSettings(raw, Path("c"))) or [])
        assert ("snake is True in the file and False in the config" in found) != said


# ---- content encoders -----------------------------------------------------------------------------

PUBLISHED = {
    "enc_fairseq_hubert_base": ["vec768l12", "vec256l9"],
    "enc_fairseq_hubert_large": ["cnhubertlarge"],
    "enc_fairseq_hubert_largebias": ["cnhubertlarge"],
    "enc_hubertsoft": ["hubertsoft"],
    "enc_unilm_wavlm_base": ["wavlmbase+"],
    "enc_torchaudio_wavlm_base": ["wavlmbase+"],
    "enc_torchaudio_hubert_large": ["cnhubertlarge"],
    "enc_whisper_medium": ["whisper-ppg"],
    "enc_whisper_large-v2": ["whisper-ppg-large"],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_ids_of_published_nets(table: Callable[..., Weights], name: str) -> None:
    key = "model_state_dict" if "whisper" in name else "model"
    finding = _recognise(table(name, key=key))
    assert (finding.kind, finding.damage) == ("encoder", None)
    assert finding.facts["encoder_ids"] == PUBLISHED[name]
    assert finding.fits == (f"--speech_encoder {' or '.join(PUBLISHED[name])}",)


def test_a_pruned_net_needs_its_config(table: Callable[..., Weights], tables: Path) -> None:
    raw = json.loads((tables / "statedict_enc_dphubert_example.json").read_text())
    finding = _recognise(table("enc_dphubert_example", config=raw["config"]))
    assert (finding.facts["encoder_ids"], finding.damage) == (["dphubert"], None)
    assert _recognise(table("enc_dphubert_example")).damage is not None


GOLDEN = {"fairseq_hubert_base": "HuBERT", "fairseq_hubert_large": "HuBERT", "wavlm": "WavLM",
          "dphubert": "DPHuBERT", "whisper": "Whisper"}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_small_encoders_in_the_original_formats(
    golden: Path, look: Callable[..., Report], name: str
) -> None:
    report = look(golden / f"golden_enc_tiny_{name}.pt")
    assert report.finding.kind == "encoder"
    assert GOLDEN[name] in report.finding.what
    assert report.finding.facts["encoder_ids"] == []
    assert report.finding.facts["units"] == (64 if name == "whisper" else 128)
    assert report.good
    assert report.safety.harmless


def test_the_bundled_encoder_is_known(
    look: Callable[..., Report], make_config: Callable[..., SvcConfig]
) -> None:
    report = look(whisper_tiny_asset(), config=make_config())
    assert report.finding.facts["encoder_ids"] == ["whisper-ppg-tiny"]
    assert report.known is not None
    assert (report.known.checked, report.known.licence) == (True, "MIT")
    assert report.match is not None
    assert report.match.fits
    config = make_config(ssl_dim=768, speech_encoder="dphubert")
    match = look(whisper_tiny_asset(), config=config).match
    assert match is not None
    assert match.differences == (
        "the config's speech encoder is dphubert, this is for whisper-ppg-tiny",
    )


def test_a_folder_of_hugging_face(
    wave_formats: Any, look: Callable[..., Report], tmp_path: Path
) -> None:
    state = wave_formats.hugging_face_names(
        wave_formats.fairseq_tensors(dim=768, projection=None, ffn=64, layers=12)
    )
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "hubert", "num_attention_heads": 12})
    )
    report = look(tmp_path)
    assert "no weights" in str(report.damage)
    save_safetensors(state, tmp_path / "model.safetensors")
    report = look(tmp_path)
    assert report.finding.kind == "encoder"
    assert report.finding.facts["encoder_ids"] == ["vec768l12"]
    assert report.finding.fits == (f"--speech_encoder vec768l12 --encoder_path {tmp_path}",)
    assert look(tmp_path / "config.json").finding.kind == "Hugging Face config"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert '"model_type": "bert"' in str(look(tmp_path).damage)


def test_an_encoder_without_a_part_is_damaged(wave_formats: Any, tmp_path: Path) -> None:
    state = {key: tensor.to("meta") for key, tensor in wave_formats.fairseq_tensors().items()}
    for name in ("encoder.layers.1.fc1.weight", "encoder.layer_norm.weight"):
        rest = {key: tensor for key, tensor in state.items() if key != name}
        finding = _recognise(Weights(tmp_path, {"model": rest}, "torch"))
        assert finding.kind == "encoder"
        assert finding.damage is not None
    whole = _recognise(Weights(tmp_path, {"model": state}, "torch"))
    assert whole.damage is None


def test_the_optimizer_of_an_encoder_is_told(wave_formats: Any, tmp_path: Path) -> None:
    content = {
        "model": {k: tensor.to("meta") for k, tensor in wave_formats.fairseq_tensors().items()},
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(100)}}},
    }
    finding = _recognise(Weights(tmp_path, content, "torch"))
    assert finding.facts["optimizer_bytes"] == 400


# ---- pitch nets -----------------------------------------------------------------------------------


def test_rmvpe(table: Callable[..., Weights], golden: Path, look: Callable[..., Report]) -> None:
    finding = _recognise(table("enc_rmvpe_E2E0"))
    facts = finding.facts
    assert (facts["f0_predictor"], facts["stages"], facts["blocks_per_stage"]) == ("rmvpe", 5, 4)
    assert (facts["unused_layers"], finding.damage) == (True, None)
    assert look(golden / "golden_enc_tiny_rmvpe.pt").good
    weights = table("enc_rmvpe_E2E0")
    del weights.tensors["unet.encoder.layers.0.conv.0.conv.1.running_var"]
    assert "running_var" in str(_recognise(weights).damage)


def test_fcpe(golden: Path, look: Callable[..., Report]) -> None:
    original = look(golden / "golden_enc_tiny_fcpe.pt")
    assert original.finding.facts["attention"] is True
    assert "4.1" in original.finding.what
    asset = torchfcpe_asset()
    assert asset is not None
    bundled = look(asset)
    assert bundled.finding.facts["attention"] is False
    assert (bundled.finding.facts["layers"], bundled.good) == (6, True)


def test_crepe(look: Callable[..., Report]) -> None:
    for size in ("full", "tiny"):
        path = crepe_asset(size)
        assert path is not None
        report = look(path)
        assert (report.finding.facts["model"], report.good) == (size, True)


# ---- none of these --------------------------------------------------------------------------------


def test_weights_that_nobody_knows(look: Callable[..., Report], tmp_path: Path) -> None:
    save_checkpoint({"a.weight": torch.ones(2, 3), "epoch": 4}, tmp_path / "x.pt")
    report = look(tmp_path / "x.pt")
    assert report.finding.kind == "unknown"
    assert report.finding.facts["tensors"] == 1
    assert report.finding.facts["first_tensors"] == ["a.weight [2, 3]"]
    assert report.safety.safe
    torch.save([1, {"a": "b"}], tmp_path / "y.pt")
    assert "no tensor" in look(tmp_path / "y.pt").finding.what
