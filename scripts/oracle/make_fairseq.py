"""HuBERT nets of fairseq, in the files that fairseq writes (spec_encoders 5)."""

from __future__ import annotations

import argparse
import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from cases import CASES, Tap
from nets import Net, perturb, round_to_half, tensors
from omegaconf import OmegaConf
from torch import Tensor

logging.disable(logging.WARNING)  # fairseq's words on optional packages
from fairseq.data.dictionary import Dictionary  # noqa: E402
from fairseq.dataclass.configs import FairseqConfig  # noqa: E402
from fairseq.models.hubert.hubert import HubertConfig, HubertModel  # noqa: E402
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig  # noqa: E402

_LARGE = {
    "extractor_mode": "layer_norm",
    "layer_norm_first": True,
    "encoder_layers": 24,
    "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 4096,
    "encoder_attention_heads": 16,
}
_SETTINGS: dict[str, dict[str, Any]] = {
    "hubert-base": {},
    "hubert-base-fp16": {},
    "hubert-large": {**_LARGE, "final_dim": 768},
    "hubert-large-bias": {**_LARGE, "final_dim": 768, "conv_bias": True},
}


def _dictionary() -> Dictionary:
    words = Dictionary()
    for word in range(500):
        words.add_symbol(str(word))
    return words


def _config(name: str) -> dict[str, Any]:
    """The whole config of a training run."""
    model = OmegaConf.structured(HubertConfig)
    model.label_rate = 50
    model.final_dim = 256
    for key, value in _SETTINGS[name].items():
        model[key] = value
    task = OmegaConf.structured(HubertPretrainingConfig)
    task.data, task.labels, task.label_rate = "data", ["km"], 50.0
    task.normalize = "large" in name  # so the published ones; never applied (spec_encoders 2)
    config = OmegaConf.structured(FairseqConfig)
    OmegaConf.set_struct(config, False)
    config.model, config.task = model, task
    config.model._name, config.task._name = "hubert", "hubert_pretraining"
    return OmegaConf.to_container(config, resolve=True, enum_to_str=True)


def _checkpoint(state: dict[str, Tensor], *, cfg: Any, args: Any, adam: bool) -> dict[str, Any]:
    moments = {
        number: {"step": 1, "exp_avg": torch.zeros_like(value), "exp_avg_sq": value * 0 + 1e-8}
        for number, value in enumerate(state.values() if adam else ())
    }
    return {
        "args": args,
        "cfg": cfg,
        "model": OrderedDict(state),
        "criterion": {},
        "optimizer_history": [
            {
                "criterion_name": "HubertCriterion",
                "optimizer_name": "FP16Optimizer",
                "lr_scheduler_state": {"best": None},
                "num_updates": 1,
            }
        ],
        "task_state": {"dictionaries": [_dictionary()]},
        "extra_state": {"previous_training_time": 1.0, "train_iterator": {"epoch": 1}},
        "last_optimizer_state": {"state": moments, "param_groups": []} if adam else None,
    }


def build(name: str) -> Net:
    config = _config(name)
    settings = HubertConfig(**{k: v for k, v in config["model"].items() if k != "_name"})
    task = argparse.Namespace(sample_rate=16000)
    module = HubertModel(settings, task, [_dictionary()]).eval()
    perturb(module)
    half = name.endswith("fp16")
    if half:
        round_to_half(module)

    def run(wave: Tensor, taps: tuple[Tap, ...]) -> dict[Tap, Tensor]:
        found = {}
        for layer, project in taps:
            # As so-vits-svc calls it: no padding, so the mask is all False.
            mask = torch.zeros(wave.shape, dtype=torch.bool)
            hidden, _ = module.extract_features(
                wave, padding_mask=mask, mask=False, output_layer=layer
            )
            found[layer, project] = (module.final_proj(hidden) if project else hidden)[0]
        return found

    def save(folder: Path) -> list[Path]:
        state = tensors(module)
        if half:
            state = {key: value.half() for key, value in state.items()}
        contents: list[dict[str, Any]] = [{"cfg": config, "args": None}]
        if name == "hubert-base":
            omega = OmegaConf.create(config)  # as fairseq's hydra_train makes it
            contents += [
                {"cfg": omega, "args": None},
                {"cfg": omega, "args": None},
                {"cfg": None, "args": argparse.Namespace(arch="hubert", **config["model"])},
            ]
        paths = []
        for number, content in enumerate(contents):
            path = folder / f"checkpoint_best_legacy_{number}.pt"
            adam = "Adam" in CASES[name].files[number]
            torch.save(
                _checkpoint(state, adam=adam, **content),
                path,
                _use_new_zipfile_serialization="legacy" not in CASES[name].files[number],
            )
            paths.append(path)
        return paths

    return Net(module, run, save, position=lambda: module.encoder.pos_conv[0].weight)
