"""What fairseq and unilm write around the tensors: every container and config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from svc.errors import CheckpointError
from svc.speech.wav2vec2 import Wav2Vec2
from svc.speech.wave_files import load_wave_net

MakeTensors = Callable[..., dict[str, Tensor]]
MakeFile = Callable[..., Path]

STANDARD = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"


def assert_equal_state(net: Wav2Vec2, expected: Wav2Vec2) -> None:
    ours, theirs = net.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("omegaconf", [False, True])
def test_every_container_and_config(
    make_fairseq_tensors: MakeTensors, save_fairseq: MakeFile, make_wave_file: MakeFile,
    large: bool, legacy: bool, omegaconf: bool,
) -> None:  # fmt: skip
    tensors = make_fairseq_tensors(large=large)
    expected = load_wave_net(make_wave_file("torchaudio", tensors=tensors))
    net = load_wave_net(save_fairseq(tensors, legacy=legacy, omegaconf=omegaconf))
    assert net.config == expected.config
    assert_equal_state(net, expected)


def test_parametrised_weight_norm(
    make_fairseq_tensors: MakeTensors, make_wave_file: MakeFile
) -> None:
    tensors = make_fairseq_tensors()
    renamed = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): tensor
        for name, tensor in tensors.items()
    }
    assert_equal_state(
        load_wave_net(make_wave_file("fairseq", tensors=renamed)),
        load_wave_net(make_wave_file("fairseq", tensors=tensors)),
    )


def test_the_config_is_believed_where_shapes_are_silent(make_wave_file: MakeFile) -> None:
    cfg = {"encoder_attention_heads": 4, "layer_norm_first": True, "conv_feature_layers": STANDARD}
    config = load_wave_net(make_wave_file("fairseq", dim=128, settings=cfg)).config
    assert (config.n_heads, config.head_dim, config.pre_norm) == ((4, 4), 32, True)
    config = load_wave_net(make_wave_file("fairseq", dim=128)).config
    assert (config.n_heads, config.head_dim, config.pre_norm) == ((2, 2), 64, False)


def test_only_unilm_normalises_the_wave(
    make_wave_file: MakeFile, make_fairseq_tensors: MakeTensors
) -> None:
    """Spec_encoders 2: fairseq's task.normalize (true in the files of the fixture) is not followed."""
    path = make_wave_file("fairseq")
    assert torch.load(path, weights_only=False)["cfg"]["task"]["normalize"]
    assert not load_wave_net(path).config.normalize_wave
    for stated in (False, True):
        path = make_wave_file("wavlm", settings={"normalize": stated})
        assert load_wave_net(path).config.normalize_wave is stated
    # unilm's flag is also followed where the net has no position bias.
    plain = make_wave_file(
        "wavlm",
        tensors=make_fairseq_tensors(),
        settings={"normalize": True, "relative_position_embedding": False, "gru_rel_pos": False},
    )
    config = load_wave_net(plain).config
    assert (config.normalize_wave, config.relative_buckets) == (True, 0)


def test_table_of_position_biases(make_wave_file: MakeFile) -> None:
    """Its size is that of the tensor; how far it reaches is in the config only."""
    path = make_wave_file("wavlm", buckets=40, settings={"num_buckets": 320, "max_distance": 99})
    config = load_wave_net(path).config
    assert (config.relative_buckets, config.relative_distance) == (40, 99)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("fairseq", {"encoder_attention_heads": 5}, "5 attention heads do not divide 64 channels"),
        ("fairseq", {"encoder_attention_heads": 0}, "0 attention heads do not divide"),
        ("fairseq", {"layer_type": "conformer"}, "\"layer_type\": 'conformer', only 'transformer'"),
        ("fairseq", {"activation_fn": "relu"}, "\"activation_fn\": 'relu', only 'gelu'"),
        ("fairseq", {"pos_conv_depth": 5}, '"pos_conv_depth": 5, only 1'),
        ("wavlm", {"gru_rel_pos": False}, '"gru_rel_pos": False, only True'),
        ("wavlm", {"conv_feature_layers": STANDARD.replace("10,5", "10,4")}, r"strides \(4, 2, 2"),
        ("fairseq", {"conv_feature_layers": "[(512,10,5)] * 3"}, r"kernels \(10, 10, 10\)"),
        ("fairseq", {"conv_feature_layers": "__import__('os').abort()"}, "unreadable"),
    ],
)
def test_other_settings_are_refused(
    make_wave_file: MakeFile, kind: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckpointError, match=f"{words}.*It must be a HuBERT"):
        load_wave_net(make_wave_file(kind, settings=settings))


def test_other_tensors_are_refused(
    make_fairseq_tensors: MakeTensors, make_wavlm_tensors: MakeTensors, make_wave_file: MakeFile
) -> None:
    tensors = make_fairseq_tensors()
    tensors["encoder.layers.0.self_attn_layer_norm.weight_ln.weight"] = torch.ones(64)
    with pytest.raises(CheckpointError, match=r"weight_ln.*legacy form"):
        load_wave_net(make_wave_file("fairseq", tensors=tensors))
    tensors = make_wavlm_tensors()
    table = tensors.pop("encoder.layers.0.self_attn.relative_attention_bias.weight")
    with pytest.raises(CheckpointError, match="the table of relative position bias is absent"):
        load_wave_net(make_wave_file("fairseq", tensors=tensors))
    tensors = make_fairseq_tensors()
    tensors["encoder.layers.0.self_attn.relative_attention_bias.weight"] = table
    with pytest.raises(CheckpointError, match="the gates of its relative position bias"):
        load_wave_net(make_wave_file("fairseq", tensors=tensors))


def test_heads_by_the_gates(make_wavlm_tensors: MakeTensors, make_wave_file: MakeFile) -> None:
    """Without a config the gates tell how wide a head is."""
    tensors = make_wavlm_tensors(dim=128)
    for name, tensor in tensors.items():
        if "grep_linear.weight" in name:
            tensors[name] = tensor[:, :32].clone()
        elif "grep_a" in name or "relative_attention_bias" in name:
            axis = 1
            tensors[name] = torch.cat([tensor, tensor], axis)
    net = load_wave_net(make_wave_file("hugging_face", tensors=tensors, path=None, settings=NONE))
    assert net.config == replace(net.config, n_heads=(4, 4), head_dim=32)


NONE = {"num_attention_heads": None, "do_stable_layer_norm": None}
