"""hubert-soft: its wrappers and what it holds beside the net. Equality with the same tensors under
other names is in test_wave_files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from svc.errors import CheckpointError
from svc.speech.hubert_soft import split_attention_inputs
from svc.speech.wav2vec2 import Wav2Vec2
from svc.speech.wave_encoder import Wav2Vec2Encoder
from svc.speech.wave_files import load_wave_net

MakeFile = Callable[..., Path]


@pytest.fixture
def tensors(make_wave_file: MakeFile) -> dict[str, Tensor]:
    content: dict[str, Tensor] = torch.load(make_wave_file("hubert_soft"), weights_only=False)
    return content


def units(net: Wav2Vec2) -> Tensor:
    wav = 0.3 * torch.randn(8000, generator=torch.Generator().manual_seed(1))
    return Wav2Vec2Encoder(net, name="hubertsoft", project=True, padding=40).encode(wav)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("training_parts", [False, True])
def test_releases(
    tensors: dict[str, Tensor], tmp_path: Path, prefix: str, wrapped: bool, training_parts: bool
) -> None:
    """v0.1 is bare, v0.2 wrapped; both may have "module."; parts only training needs may lack."""
    torch.save(tensors, tmp_path / "plain.pt")
    expected = units(load_wave_net(tmp_path / "plain.pt"))
    assert expected.shape == (1, 24, 25)
    kept = {
        prefix + name: tensor
        for name, tensor in tensors.items()
        if training_parts or name not in ("masked_spec_embed", "label_embedding.weight")
    }
    torch.save({"hubert": kept} if wrapped else kept, tmp_path / "soft.pt")
    assert torch.equal(units(load_wave_net(tmp_path / "soft.pt")), expected)


def test_attention_inputs_are_split_without_copying() -> None:
    weight, bias = torch.arange(18.0).view(6, 3), torch.arange(6.0)
    split = split_attention_inputs({"a.in_proj_weight": weight, "a.in_proj_bias": bias, "b": bias})
    assert list(split) == [
        *(f"a.{role}_weight" for role in ("query", "key", "value")),
        *(f"a.{role}_bias" for role in ("query", "key", "value")),
        "b",
    ]
    assert torch.equal(split["a.key_weight"], weight[2:4])
    assert torch.equal(split["a.value_bias"], bias[4:])
    assert split["a.key_weight"].untyped_storage().data_ptr() == weight.data_ptr()
    with pytest.raises(ValueError, match="has 7 rows"):
        split_attention_inputs({"a.in_proj_bias": torch.ones(7)})


def test_damage(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "soft.pt"
    name = "encoder.layers.0.self_attn.in_proj_weight"
    torch.save({**tensors, name: tensors[name][:-1]}, path)
    with pytest.raises(
        CheckpointError, match=r"in_proj_weight has 191 rows.*It must be hubert-soft"
    ):
        load_wave_net(path)
    del tensors[name]
    torch.save(tensors, path)
    with pytest.raises(CheckpointError, match=r"missing.*layers\.0\.attention\.query\.weight"):
        load_wave_net(path)
