"""What the nets of torchaudio share: how they are run, and names of tensors in other projects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from cases import Tap
from nets import layer_outputs, tensors
from torch import Tensor, nn

LAYER = r"^encoder\.transformer\.layers\.(\d+)\."
_POSITION = "encoder.transformer.pos_conv_embed.conv."
_GAIN = _POSITION + "parametrizations.weight.original0"
_DIRECTION = _POSITION + "parametrizations.weight.original1"


def runner(module: nn.Module) -> Callable[[Tensor, tuple[Tap, ...]], dict[Tap, Tensor]]:
    """How to tap a `Wav2Vec2Model`; "projected" goes through its `aux`."""

    def run(wave: Tensor, taps: tuple[Tap, ...]) -> dict[Tap, Tensor]:
        def forward() -> Tensor:
            features, _ = module.feature_extractor(wave, None)
            return module.encoder(features, None)

        hidden = layer_outputs(module.encoder.transformer.layers, forward, taps)
        return {
            (layer, project): (module.aux(hidden[layer]) if project else hidden[layer])[0]
            for layer, project in taps
        }

    return run


def position(module: nn.Module) -> Tensor:
    """The positional convolution's weight, norm folded."""
    return module.encoder.transformer.pos_conv_embed.conv.weight


def classic_state(module: nn.Module, position_name: str) -> dict[str, Tensor]:
    """The state with the positional convolution under another name and its weight norm as the old
    pair `weight_g`, `weight_v`.
    """
    renamed = {_GAIN: f"{position_name}weight_g", _DIRECTION: f"{position_name}weight_v"}
    return {
        renamed.get(name, name.replace(_POSITION, position_name)): value
        for name, value in tensors(module).items()
    }


def rename(state: dict[str, Tensor], rules: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """Apply to each name the first rule that fits it."""
    renamed = {}
    for name, value in state.items():
        new = name
        for pattern, replacement in rules:
            new, count = re.subn(pattern, replacement, name)
            if count:
                break
        renamed[new] = value
    return renamed
