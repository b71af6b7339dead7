"""The RMVPE net ("E2E0"): log-mel -> how likely each of 360 pitches is, per frame (spec_f0 7.3;
Wei et al. 2023, arXiv 2306.15412).

A residual U-Net over the log-mel as an image (height = time, width = mel) and a bidirectional GRU
over time. The net here has no normalisation layers: those of the file are folded into the
convolutions as it is read. The layers ``unet.tf.*`` of the file take no part in the result, so they
may be absent and are never built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svc.checkpoint import load_checkpoint, load_state, rename
from svc.errors import CheckpointError

BATCH_NORM_EPS = 1e-5
UNUSED = "unet.tf."
_HINT = "It must be the rmvpe.pt of so-vits-svc 4.1, or the same net in half precision"

_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^unet\.encoder\.bn\.", "input."),
        (r"^unet\.encoder\.layers\.(\d+)\.conv\.(\d+)\.", r"encoder.\1.\2."),
        (r"^unet\.intermediate\.layers\.(\d+)\.conv\.(\d+)\.", r"middle.\1.\2."),
        (r"^unet\.decoder\.layers\.(\d+)\.conv1\.0\.", r"decoder.\1.up."),
        (r"^unet\.decoder\.layers\.(\d+)\.conv1\.1\.", r"decoder.\1.up_norm."),
        (r"^unet\.decoder\.layers\.(\d+)\.conv2\.(\d+)\.", r"decoder.\1.blocks.\2."),
        (r"^fc\.0\.gru\.", "gru."),
        (r"^fc\.1\.", "output."),
    )
)
_IN_BLOCK = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\.conv\.0\.", ".first."),
        (r"\.conv\.1\.", ".first_norm."),
        (r"\.conv\.3\.", ".second."),
        (r"\.conv\.4\.", ".second_norm."),
    )
)


@dataclass(frozen=True)
class RmvpeConfig:
    """Sizes of one net."""

    n_stages: int = 5  # of the encoder, and of the decoder
    n_blocks: int = 4  # residual blocks per stage
    n_middle: int = 4  # stages between encoder and decoder
    width: int = 16  # channels of the first stage, doubled in each further one
    n_maps: int = 3  # images that the U-Net hands to the GRU
    n_mels: int = 128
    gru_dim: int = 256  # per direction
    n_bins: int = 360  # pitches told apart

    @property
    def n_together(self) -> int:
        """Frames that the U-Net sees as one at its bottom: lengths must be multiples of it."""
        return int(2**self.n_stages)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with ReLU, and a shortcut around both."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_dim, out_dim, 3, padding=1)
        self.second = nn.Conv2d(out_dim, out_dim, 3, padding=1)
        self.shortcut = nn.Conv2d(in_dim, out_dim, 1) if in_dim != out_dim else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, N, M) -> (B, C', N, M)."""
        y = F.relu(self.second(F.relu(self.first(x))))
        return y + (x if self.shortcut is None else self.shortcut(x))


def _blocks(in_dim: int, out_dim: int, count: int) -> nn.Sequential:
    return nn.Sequential(
        *(ResidualBlock(in_dim if j == 0 else out_dim, out_dim) for j in range(count))
    )


class DecoderStage(nn.Module):
    """Doubles height and width, takes the encoder's image of that size beside its own."""

    def __init__(self, in_dim: int, out_dim: int, count: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_dim, out_dim, 3, stride=2, padding=1, output_padding=1)
        self.blocks = _blocks(2 * out_dim, out_dim, count)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C, N, M), (B, C', 2 N, 2 M) -> (B, C', 2 N, 2 M)."""
        y: Tensor = self.blocks(torch.cat((F.relu(self.up(x)), skip), dim=1))
        return y


class RmvpeNet(nn.Module):
    """Log-mel -> salience of each pitch bin.

    The convolutions may be moved to half precision (`convolve_in`); GRU and sigmoid stay in float32.
    """

    def __init__(self, config: RmvpeConfig) -> None:
        super().__init__()
        self.config = config
        dims = [config.width * 2**stage for stage in range(config.n_stages)]
        # One gain and offset for the whole input. They cannot go into the first convolution, whose
        # zero padding comes after them.
        self.input = nn.Conv2d(1, 1, 1)
        self.encoder = nn.ModuleList(
            _blocks(a, b, config.n_blocks) for a, b in zip([1, *dims], dims, strict=False)
        )
        self.middle = nn.Sequential(
            *(
                _blocks(dims[-1] * (1 if stage == 0 else 2), 2 * dims[-1], config.n_blocks)
                for stage in range(config.n_middle)
            )
        )
        self.decoder = nn.ModuleList(DecoderStage(2 * d, d, config.n_blocks) for d in dims[::-1])
        self.cnn = nn.Conv2d(config.width, config.n_maps, 3, padding=1)
        self.gru = nn.GRU(
            config.n_maps * config.n_mels, config.gru_dim, batch_first=True, bidirectional=True
        )
        self.output = nn.Linear(2 * config.gru_dim, config.n_bins)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, n_mels, N) natural-log mel -> (B, N, n_bins) in [0, 1]; N a multiple of
        `config.n_together`.
        """
        x = mel.transpose(1, 2).unsqueeze(1)  # (B, 1, N, M)
        x = self.input(x.to(self.input.weight.dtype))
        x = x.contiguous(memory_format=torch.channels_last)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.middle(x)
        for stage in self.decoder:
            x = stage(x, skips.pop())
        maps = self.cnn(x).transpose(1, 2).flatten(2)  # (B, N, maps * M)
        hidden, _ = self.gru(maps.to(self.gru.weight_ih_l0.dtype))
        return torch.sigmoid(self.output(hidden))

    def convolve_in(self, dtype: torch.dtype) -> RmvpeNet:
        """Change the precision of the convolutions; GRU and output keep theirs. Returns the net."""
        for part in (self.input, self.encoder, self.middle, self.decoder, self.cnn):
            part.to(dtype)
        return self


def own_name(name: str) -> str:
    """Return a tensor's name in this module's net for its name in a file."""
    short = rename(name, _RENAMES)
    return rename(short, _IN_BLOCK) if short != name else name


def fold_batch_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a file's tensors to this module's names and fold its normalisation into the
    convolutions.

    BatchNorm in eval mode is the gain ``weight / sqrt(var + eps)`` and the offset ``bias - mean *
    gain`` per channel; computed in float64.

    Args:
        state: the tensors of rmvpe.pt; ``unet.tf.*`` are left out.

    Returns:
        float32 tensors by the names of `RmvpeNet`; names that mean nothing to it are kept.

    Raises:
        KeyError: half of a layer is absent.
    """
    plain = {
        own_name(name): tensor
        for name, tensor in state.items()
        if not name.startswith(UNUSED) and not name.endswith(".num_batches_tracked")
    }
    folded = {name: tensor.float() for name, tensor in plain.items() if "_norm." not in name}
    for layer in ("weight", "bias", "running_mean", "running_var"):
        folded.pop(f"input.{layer}", None)
    for name in [name for name in plain if name.endswith("running_var")]:
        norm = name.removesuffix(".running_var")
        gain, offset = _affine(plain, norm)
        if norm == "input":
            folded["input.weight"] = gain.view(1, 1, 1, 1).float()
            folded["input.bias"] = offset.float()
            continue
        convolution = norm.removesuffix("_norm")
        weight = plain[f"{convolution}.weight"].double()
        # The kernel of a transposed convolution has its output channels second.
        shape = (1, -1, 1, 1) if convolution.endswith(".up") else (-1, 1, 1, 1)
        folded[f"{convolution}.weight"] = (weight * gain.view(shape)).float()
        folded[f"{convolution}.bias"] = offset.float()
    return folded


def _affine(state: Mapping[str, Tensor], norm: str) -> tuple[Tensor, Tensor]:
    gain, bias, mean, var = (
        state[f"{norm}.{part}"].double()
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    gain = gain / torch.sqrt(var + BATCH_NORM_EPS)
    return gain, bias - mean * gain


def infer_config(state: Mapping[str, Tensor]) -> RmvpeConfig:
    """Read the sizes from the tensors, by this module's names. Raises KeyError, ValueError."""
    n_maps = len(state["cnn.weight"])
    config = RmvpeConfig(
        n_stages=_count(state, r"encoder\.(\d+)\."),
        n_blocks=_count(state, r"encoder\.0\.(\d+)\."),
        n_middle=_count(state, r"middle\.(\d+)\."),
        width=len(state["encoder.0.0.first.weight"]),
        n_maps=n_maps,
        n_mels=state["gru.weight_ih_l0"].shape[1] // n_maps,
        gru_dim=state["gru.weight_hh_l0"].shape[1],
        n_bins=len(state["output.weight"]),
    )
    if config.n_mels % config.n_together:
        raise ValueError(f"{config.n_mels} mel bands cannot be halved {config.n_stages} times")
    return config


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    numbers = {int(m[1]) for name in state if (m := re.match(pattern, name))}
    if not numbers or numbers != set(range(len(numbers))):
        raise ValueError(f"layers {sorted(numbers)} are not numbered without gaps")
    return len(numbers)


def load_rmvpe(path: Path) -> RmvpeNet:
    """Load an RMVPE net.

    Args:
        path: ``{model: tensors}`` as so-vits-svc 4.1 has it, or the bare tensors; float16 or
            float32.

    Returns:
        The net in float32 on the CPU, in eval mode.

    Raises:
        MissingFileError: no such file.
        CheckpointError: truncated, hostile, or another kind of net.
    """
    file = load_checkpoint(path)
    tensors = file.get("model", file)
    if not isinstance(tensors, Mapping):
        raise CheckpointError(f"{path} holds no weights. {_HINT}")
    tensors = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    try:
        state = fold_batch_norm(tensors)
        net = RmvpeNet(infer_config(state))
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        reason = f"no tensor {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise CheckpointError(f"{path} holds no RMVPE net: {reason}. {_HINT}") from error
    load_state(net, state, what=str(path), hint=_HINT)
    # A tenth faster on a CPU; the stubs of torch do not know this form of `to`.
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net.eval().requires_grad_(False)
