"""Folders and lone files of Hugging Face's transformers, without transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from svc.checkpoint import load_safetensors, save_safetensors
from svc.errors import CheckpointError, MissingFileError
from svc.speech.wav2vec2 import Wav2Vec2
from svc.speech.wave_files import load_wave_net

MakeTensors = Callable[..., dict[str, Tensor]]
MakeFile = Callable[..., Path]


def assert_equal_state(net: Wav2Vec2, expected: Wav2Vec2) -> None:
    ours, theirs = net.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("large", [False, True])
def test_every_place_of_the_weights(
    make_fairseq_tensors: MakeTensors, make_wave_file: MakeFile, tmp_path: Path, large: bool
) -> None:
    """A folder with either file, the file in a folder, a lone file, both ways of weight norm."""
    tensors = make_fairseq_tensors(large=large)
    folder = make_wave_file("hugging_face", tensors=tensors)
    expected = load_wave_net(folder)
    assert_equal_state(load_wave_net(folder / "model.safetensors"), expected)
    lone = make_wave_file("hugging_face", tensors=tensors, path=tmp_path / "lone.safetensors")
    assert_equal_state(load_wave_net(lone), expected)
    names, _ = load_safetensors(lone)
    renamed = {
        name.replace("conv.weight_g", "conv.parametrizations.weight.original0").replace(
            "conv.weight_v", "conv.parametrizations.weight.original1"
        ): tensor
        for name, tensor in names.items()
    }
    assert renamed.keys() != names.keys()
    (folder / "model.safetensors").unlink()
    torch.save(renamed, folder / "pytorch_model.bin")
    assert_equal_state(load_wave_net(folder), expected)
    (folder / "config.json").unlink()
    assert_equal_state(load_wave_net(folder), expected)


def test_contentvec_with_its_projection_outside(
    make_fairseq_tensors: MakeTensors, make_wave_file: MakeFile, tmp_path: Path
) -> None:
    """HubertModelWithFinalProj holds ``final_proj`` beside the net's tensors, with or without the
    prefix of the net.
    """
    tensors = make_fairseq_tensors(projection=24)
    lone = make_wave_file("hugging_face", tensors=tensors, path=tmp_path / "lone.safetensors")
    expected = load_wave_net(lone)
    assert expected.final_projection is not None
    names, _ = load_safetensors(lone)
    prefixed = {
        name if name.startswith("final_proj") else f"hubert.{name}": t for name, t in names.items()
    }
    save_safetensors(prefixed, tmp_path / "prefixed.safetensors")
    assert_equal_state(load_wave_net(tmp_path / "prefixed.safetensors"), expected)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"num_attention_heads": 4}, {"n_heads": (4, 4), "head_dim": 32}),
        ({"do_stable_layer_norm": True}, {"pre_norm": True}),
        ({"model_type": "wav2vec2"}, {"pre_norm": False, "n_heads": (2, 2)}),
        ({"feat_proj_layer_norm": True, "conv_pos_batch_norm": False}, {"head_dim": 64}),
        ({"adapter_attn_dim": None, "add_adapter": False}, {"head_dim": 64}),
    ],
)
def test_the_config_is_believed(
    make_wave_file: MakeFile, settings: dict[str, Any], found: dict[str, Any]
) -> None:
    config = load_wave_net(make_wave_file("hugging_face", dim=128, settings=settings)).config
    assert {key: getattr(config, key) for key in found} == found


@pytest.mark.parametrize("stated", [False, True, None])
@pytest.mark.parametrize("kind", ["hugging_face", "hugging_face_wavlm"])
def test_normalising_the_wave(make_wave_file: MakeFile, kind: str, stated: bool | None) -> None:
    """The processor's word counts for WavLM; HuBERT hears the wave as it is (spec_encoders 2)."""
    for large in (False, True):
        folder = make_wave_file(kind, large=large)
        if stated is not None:
            processor = json.dumps({"do_normalize": stated, "sampling_rate": 16000})
            (folder / "preprocessor_config.json").write_text(processor, encoding="utf-8")
        expected = (large if stated is None else stated) and "wavlm" in kind
        assert load_wave_net(folder).config.normalize_wave is expected


def test_position_bias_reaches_as_far_as_stated(make_wave_file: MakeFile) -> None:
    folder = make_wave_file("hugging_face_wavlm", buckets=40, settings={"max_bucket_distance": 99})
    config = load_wave_net(folder).config
    assert (config.relative_buckets, config.relative_distance) == (40, 99)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_type": "wav2vec2-conformer"}, '"wav2vec2-conformer", known are hubert, wavlm'),
        ({"model_type": "data2vec-audio"}, '"data2vec-audio", known are hubert'),
        ({"model_type": "whisper"}, "choose a whisper-ppg encoder"),
        ({"feat_proj_layer_norm": False}, '"feat_proj_layer_norm": False, only True'),
        ({"conv_pos_batch_norm": True}, '"conv_pos_batch_norm": True, only False'),
        ({"adapter_attn_dim": 16}, '"adapter_attn_dim": 16, only None'),
        ({"add_adapter": True}, '"add_adapter": True, only False'),
        ({"hidden_act": "relu"}, "\"hidden_act\": 'relu', only 'gelu'"),
        ({"layer_norm_eps": 1e-12}, '"layer_norm_eps": 1e-12, only 1e-05'),
        ({"conv_stride": [5, 2, 2, 2, 2, 2, 1]}, r"strides \(5, 2, 2, 2, 2, 2, 1\)"),
        ({"conv_kernel": None}, r"kernels \(None,\)"),
        ({"conv_kernel": 3}, r"kernels \(3,\)"),
        ({"num_attention_heads": 7}, "7 attention heads do not divide 64"),
    ],
)
def test_other_models_are_refused(
    make_wave_file: MakeFile, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(CheckpointError, match=f"{words}.*It must be a HuBERT, ContentVec"):
        load_wave_net(make_wave_file("hugging_face", settings=settings))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], r"no weights \(model.safetensors or pytorch_model.bin\); download them"),
        (["config.json"], "download them"),
        (["tf_model.h5"], r"it has tf_model\.h5"),
        (["contentvec.pt"], r"it has contentvec\.pt: if that is the model, give the path"),
        (["model.safetensors.index.json", "model-1.safetensors"], "split over several files"),
    ],
)
def test_folders_without_weights(tmp_path: Path, files: list[str], words: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(MissingFileError, match=words):
        load_wave_net(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\udcff", "[" * 100_000])
def test_broken_configs(make_wave_file: MakeFile, text: str) -> None:
    folder = make_wave_file("hugging_face")
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(
        CheckpointError, match=r"config\.json (is not readable as JSON|holds a list)"
    ):
        load_wave_net(folder)


def test_a_folder_of_another_format(make_wave_file: MakeFile, tmp_path: Path) -> None:
    """What the file is called does not matter: a fairseq file as pytorch_model.bin."""
    tensors_at = make_wave_file("fairseq", path=tmp_path / "pytorch_model.bin")
    assert_equal_state(load_wave_net(tmp_path), load_wave_net(tensors_at))
