from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from svc.checkpoint import fold_weight_norm, save_checkpoint, save_safetensors
from svc.config import SvcConfig
from svc.errors import CheckpointError, MissingFileError
from svc.synthesizer import Synthesizer, check_state, describe_mismatch, load_synthesizer
from svc.vocoder import Discriminator

MakeNet = Callable[..., Synthesizer]
MakeConfig = Callable[..., SvcConfig]
Inputs = Callable[..., dict[str, Tensor]]


def save(net: Synthesizer, path: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    save_checkpoint({"model": change(dict(net.state_dict())), "iteration": 1}, path)
    return path


def parametrised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    endings = {"weight_g": "original0", "weight_v": "original1"}
    renamed = {}
    for name, tensor in state.items():
        stem, _, last = name.rpartition(".")
        new = f"{stem}.parametrizations.weight.{endings[last]}" if last in endings else name
        renamed[new] = tensor
    return renamed


FORMS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], float]] = {
    "as saved": (lambda s: s, 1e-6),
    "data parallel": (lambda s: {f"module.{k}": v for k, v in s.items()}, 1e-6),
    "no posterior": (lambda s: {k: v for k, v in s.items() if not k.startswith("enc_q.")}, 1e-6),
    "half": (lambda s: {k: v.half() for k, v in s.items()}, 0.02),
    "parametrised": (parametrised, 1e-6),
    "folded": (fold_weight_norm, 1e-5),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"flow_share_parameter": True, "use_depthwise_conv": True},
        {"use_transformer_flow": True},
    ],
)
def test_every_form_of_a_file_loads(
    tmp_path: Path,
    make_net: MakeNet,
    make_config: MakeConfig,
    voice: Inputs,
    form: str,
    changes: dict[str, Any],
) -> None:
    net = make_net(**changes)
    change, limit = FORMS[form]
    path = save(net, tmp_path / "G_0.pth", change)
    loaded = load_synthesizer(path, make_config(**changes))
    inputs = voice(net)
    difference = (loaded.infer(**inputs)[0] - net.infer(**inputs)[0]).abs().max()
    assert difference <= limit
    assert not loaded.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.parameters())
    assert loaded.enc_q is None
    assert not any(name.endswith("weight_g") for name in loaded.state_dict())


def test_a_snake_voice_and_safetensors(
    tmp_path: Path, make_net: MakeNet, make_config: MakeConfig, voice: Inputs
) -> None:
    net = make_net(vocoder_name="nsf-snake-hifigan")
    save_safetensors(net.state_dict(), tmp_path / "voice.safetensors")
    config = make_config(vocoder_name="nsf-snake-hifigan")
    loaded = load_synthesizer(tmp_path / "voice.safetensors", config)
    inputs = voice(net)
    assert torch.allclose(loaded.infer(**inputs)[0], net.infer(**inputs)[0], atol=1e-6)


def test_a_net_without_posterior_refuses_to_train(
    tmp_path: Path, make_net: MakeNet, make_config: MakeConfig, make_batch: Inputs
) -> None:
    net = make_net()
    loaded = load_synthesizer(save(net, tmp_path / "G_0.pth", dict), make_config())
    with pytest.raises(ValueError, match="without its posterior encoder"):
        loaded(**make_batch(net))


MISMATCHES: list[tuple[dict[str, Any], dict[str, Any], str, list[str]]] = [
    (
        {"ssl_dim": 768},
        {"ssl_dim": 256, "speech_encoder": "vec256l9"},
        "ssl_dim",
        [
            "pre.weight is [16, 768, 5] in the file and [16, 256, 5] by the config",
            "trained with a speech encoder 768 wide such as vec768l12",
            "the config says vec256l9",
        ],
    ),
    (
        {"n_speakers": 5},
        {},
        "n_speakers",
        ["emb_g.weight is [5, 12]", "[3, 12] by the config", "trained with 5 speakers"],
    ),
    (
        {"vol_embedding": True},
        {},
        "vol_embedding",
        [
            "emb_vol.weight is in the file",
            "with a volume embedding",
            "model.vol_embedding is False",
        ],
    ),
    (
        {},
        {"vol_embedding": True},
        "vol_embedding",
        ["emb_vol.weight is not in the file", "without a volume embedding"],
    ),
    (
        {"use_automatic_f0_prediction": False},
        {},
        "use_automatic_f0_prediction",
        ["f0_decoder.proj.weight is not in the file", "without automatic F0 prediction"],
    ),
    (
        {"use_transformer_flow": True},
        {},
        "use_transformer_flow",
        ["flow.flows.0.enc.cond_pre.weight is in the file", "with a transformer flow"],
    ),
    (
        {"flow_share_parameter": True},
        {},
        "flow_share_parameter",
        ["flow.wn is in the file", "with a shared flow net"],
    ),
    (
        {},
        {"use_depthwise_conv": True},
        "use_depthwise_conv",
        ["in_layers.0.depth_conv is not in the file", "without depthwise convolutions"],
    ),
    (
        {"vocoder_name": "nsf-snake-hifigan"},
        {},
        "vocoder_name",
        [
            "dec.snakes.0.act.alpha is in the file",
            "with the snake decoder, the config says without",
        ],
    ),
    (
        {"filter_channels": 32},
        {},
        "filter_channels",
        ["enc_p.enc_.ffn_layers.0.conv_1.weight is [32, 16, 3]", "[24, 16, 3] by the config"],
    ),
    (
        {"upsample_initial_channel": 32},
        {},
        "upsample_initial_channel",
        ["dec.cond.weight is [32, 12, 1]", "32 decoder channels", "upsample_initial_channel is 16"],
    ),
    (
        {"gin_channels": 20},
        {},
        "gin_channels",
        ["emb_g.weight is [3, 20]", "20 speaker embedding channels"],
    ),
    (
        {"resblock": "2"},
        {},
        "resblock",
        ["dec.resblocks.0.convs1 is not in the file", "without type-1 residual blocks"],
    ),
    (
        {"n_layers": 3},
        {},
        "n_layers",
        ["comes 3 times in the file and 2 times by the config", "model.n_layers differs"],
    ),
    ({"n_flow_layer": 3}, {}, "n_flow_layer", ["3 times in the file and 4 times"]),
    (
        {"upsample_kernel_sizes": [8, 6]},
        {},
        "upsample_kernel_sizes",
        ["has kernels [8, 6] in the file and [8, 8] by the config"],
    ),
    (
        {"inter_channels": 10},
        {},
        "inter_channels",
        ["dec.conv_pre.weight_v is [16, 10, 7]", "[16, 8, 7] by the config", "10 latent channels"],
    ),
]


@pytest.mark.parametrize(("trained", "says", "key", "texts"), MISMATCHES)
def test_a_wrong_config_is_explained(
    tmp_path: Path,
    make_net: MakeNet,
    make_config: MakeConfig,
    trained: dict[str, Any],
    says: dict[str, Any],
    key: str,
    texts: list[str],
) -> None:
    net, config = make_net(**trained), make_config(**says)
    found = describe_mismatch(net.state_dict(), config.model)
    assert found[0].key == key
    path = save(net, tmp_path / "G_800.pth", dict)
    with pytest.raises(CheckpointError) as caught:
        load_synthesizer(path, config)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 900
    for text in (*texts, str(path), "config.json saved beside the checkpoint"):
        assert text in message


@pytest.mark.parametrize("changes", [{}, *(mismatch[0] for mismatch in MISMATCHES)])
def test_the_right_config_has_no_mismatch(
    make_net: MakeNet, make_config: MakeConfig, changes: dict[str, Any]
) -> None:
    state = make_net(**changes).state_dict()
    assert describe_mismatch(state, make_config(**changes).model) == []
    released = {name: tensor for name, tensor in state.items() if not name.startswith("enc_q.")}
    check_state(released, make_config(**changes))
    check_state(fold_weight_norm(released), make_config(**changes))


def test_the_likely_cause_comes_first(make_net: MakeNet, make_config: MakeConfig) -> None:
    state = make_net(ssl_dim=256, gin_channels=20, filter_channels=32).state_dict()
    keys = [m.key for m in describe_mismatch(state, make_config().model)]
    assert keys == ["ssl_dim", "gin_channels", "filter_channels"]


def test_other_files_are_refused_by_name(
    tmp_path: Path, make_net: MakeNet, make_config: MakeConfig
) -> None:
    net, config = make_net(), make_config()
    d = tmp_path / "D_0.pth"
    save_checkpoint({"model": Discriminator(width=0.01).state_dict()}, d)
    with pytest.raises(CheckpointError, match=r"discriminator .*give a G_\*.pth"):
        load_synthesizer(d, config)
    other = tmp_path / "other.pth"
    save_checkpoint({"model": {"layer.weight": torch.zeros(3)}}, other)
    with pytest.raises(CheckpointError, match="another net, not a synthesizer"):
        load_synthesizer(other, config)
    save_checkpoint({"epoch": 3}, other)
    with pytest.raises(CheckpointError, match='no entry "model"'):
        load_synthesizer(other, config)
    with pytest.raises(MissingFileError):
        load_synthesizer(tmp_path / "absent.pth", config)
    broken = save(
        net, tmp_path / "G_1.pth", lambda s: {k: v for k, v in s.items() if "emb_uv" not in k}
    )
    with pytest.raises(CheckpointError, match=r"missing in the file: emb_uv\.weight"):
        load_synthesizer(broken, config)
    surplus = save(net, tmp_path / "G_2.pth", lambda s: {**s, "extra.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"unknown to the model: extra\.weight"):
        load_synthesizer(surplus, config)


def test_a_bare_state_dict_loads(
    tmp_path: Path, make_net: MakeNet, make_config: MakeConfig
) -> None:
    save_checkpoint(make_net().state_dict(), tmp_path / "bare.pth")
    assert load_synthesizer(tmp_path / "bare.pth", make_config()).has_auto_f0
