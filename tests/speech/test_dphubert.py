"""DPHuBERT: layers of their own width, and the settings that say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from svc.errors import CheckpointError
from svc.speech.wave_files import load_wave_net

MakeFile = Callable[..., Path]


def noise(n: int = 8000) -> Tensor:
    return 0.3 * torch.randn(n, generator=torch.Generator().manual_seed(1))


def test_pruned_widths(make_wave_file: MakeFile) -> None:
    net = load_wave_net(make_wave_file("dphubert", layers=4))
    assert net.config.n_heads == (2, 0, 1, 2)
    assert net.config.ffn_dims == (96, 24, 0, 93)
    assert (net.config.head_dim, net.config.dim) == (64, 64)
    assert net.config.feature_scale
    assert not net.config.normalize_wave
    assert not net.config.pre_norm
    assert net.layers[1].attention is None
    assert net.layers[2].fc1 is None
    assert net.layers[0].attention.query.weight.shape == (128, 64)


def test_units_are_the_same_each_time(make_wave_file: MakeFile) -> None:
    """The original program leaves the net in training mode, with dropout (spec_encoders 11.1)."""
    net = load_wave_net(make_wave_file("dphubert", layers=3))
    assert not net.training
    assert torch.equal(net(noise()[None]), net(noise()[None]))


def test_the_factors_after_the_front_end_count(make_wave_file: MakeFile) -> None:
    path = make_wave_file("dphubert")
    net = load_wave_net(path)
    content = torch.load(path, weights_only=False)
    content["state_dict"]["feature_extractor.dummy_weight"].fill_(1.0)
    torch.save(content, path)
    plain = load_wave_net(path)
    assert not torch.allclose(net(noise()[None]), plain(noise()[None]), atol=1e-2)


def test_settings_are_followed(make_wave_file: MakeFile) -> None:
    settings = {"normalize_waveform": True, "encoder_layer_norm_first": True}
    config = load_wave_net(make_wave_file("dphubert", settings=settings)).config
    assert config.normalize_wave
    assert config.pre_norm


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoder_remaining_heads": [[0, 3]]}, "a pruned WavLM"),
        ({"encoder_prune_attention_heads": True}, "still being pruned.*encoder_prune_attention"),
        ({"encoder_num_heads": None}, 'no list of numbers "encoder_num_heads"'),
        ({"encoder_num_heads": [2, "0"]}, 'no list of numbers "encoder_num_heads"'),
        ({"encoder_ff_interm_features": [96, -1]}, 'no list of numbers "encoder_ff_interm'),
        ({"encoder_use_attention": [True]}, "different numbers of layers"),
        ({"extractor_conv_layer_config": [(16, 10, 5)]}, r"kernels \(10,\) and strides \(5,\)"),
        ({"extractor_conv_layer_config": [(16, 10)]}, "not .channels, kernel, stride. per layer"),
        ({"encoder_num_heads": [3, 0]}, "attention of layer 1 is 192 wide in the config and 128"),
        ({"encoder_num_heads": [10**18, 0]}, "and 128 in the tensors"),
        ({"encoder_head_dim": 32}, "attention of layer 1 is 64 wide in the config and 128"),
        ({"encoder_ff_interm_features": [96, 25]}, "part of layer 2 is 25 wide .* and 24"),
        (
            {"encoder_use_attention": [True, True], "encoder_num_heads": [2, 1]},
            "attention of layer 2 is 64 wide in the config and 0 in the tensors",
        ),
        ({"encoder_use_attention": [False, False]}, "attention of layer 1 is 0 wide .* and 128"),
    ],
)
def test_settings_that_do_not_fit(
    make_wave_file: MakeFile, settings: dict[str, Any], words: str
) -> None:
    """Loaded strictly: a pruned part is one the settings call pruned, not one that is missing."""
    with pytest.raises(CheckpointError, match=f"{words}.*It must be DPHuBERT"):
        load_wave_net(make_wave_file("dphubert", settings=settings))


def test_settings_of_another_depth(make_wave_file: MakeFile) -> None:
    path = make_wave_file("dphubert", layers=3)
    content = torch.load(path, weights_only=False)
    for key, value in content["config"].items():
        if isinstance(value, list) and key.startswith("encoder_"):
            value.pop()
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="config describes 2 layers and it has 3"):
        load_wave_net(path)


def test_a_pruned_wavlm_is_not_taken_for_a_whole_one(make_wave_file: MakeFile) -> None:
    path = make_wave_file("torchaudio_wavlm")
    content = {"state_dict": torch.load(path), "config": {"encoder_remaining_heads": [[0], [0]]}}
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="is a pruned WavLM"):
        load_wave_net(path)
