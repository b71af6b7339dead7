"""HuBERT and WavLM of transformers, in the folders and files that `save_pretrained` writes."""

from __future__ import annotations

from pathlib import Path

import torch
from cases import Tap
from nets import Net, layer_outputs, perturb, tensors
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel, WavLMConfig, WavLMModel


class HubertModelWithFinalProj(HubertModel):
    """HuBERT with ContentVec's projection, as its conversions to transformers define it."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__(config)
        self.final_proj = nn.Linear(config.hidden_size, config.classifier_proj_size)
        self.post_init()


def _model(name: str) -> nn.Module:
    if name == "hf-contentvec":
        return HubertModelWithFinalProj(HubertConfig(classifier_proj_size=256))
    if name == "hf-wavlm":
        return WavLMModel(WavLMConfig())
    return HubertModel(
        HubertConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            feat_extract_norm="layer",
            conv_bias=True,
            do_stable_layer_norm=True,
        )
    )


def build(name: str) -> Net:
    module = _model(name).eval()
    perturb(module)

    def run(wave: Tensor, taps: tuple[Tap, ...]) -> dict[Tap, Tensor]:
        hidden = layer_outputs(module.encoder.layers, lambda: module(wave).last_hidden_state, taps)
        return {
            (layer, project): (module.final_proj(hidden[layer]) if project else hidden[layer])[0]
            for layer, project in taps
        }

    def save(folder: Path) -> list[Path]:
        whole = folder / "safetensors"
        module.save_pretrained(whole)
        if name != "hf-contentvec":
            return [whole]
        pickled, lone = folder / "bin", folder / "lone.safetensors"
        pickled.mkdir()
        (pickled / "config.json").write_bytes((whole / "config.json").read_bytes())
        torch.save(tensors(module), pickled / "pytorch_model.bin")
        save_file(tensors(module), lone)
        return [whole, pickled, lone]

    return Net(module, run, save, position=lambda: module.encoder.pos_conv_embed.conv.weight)
