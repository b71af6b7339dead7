"""Whisper's audio encoder, every size (spec_encoders 8; "Robust Speech Recognition via Large-Scale
Weak Supervision", arXiv 2212.04356). The decoder is never built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svc.audio.mel import whisper_mel
from svc.checkpoint import load_restricted, load_safetensors, load_state, rename
from svc.devices import precision_dtype
from svc.errors import CheckpointError
from svc.speech.attention import SelfAttention
from svc.speech.chunks import HOP_LENGTH, encode_in_windows, prepare_wave
from svc.speech.precision import lower_precision

HEAD_DIM = 64  # channels per attention head in every released size
WINDOW_FRAMES = 750
"""Windows of audio beyond 30 s are 15 s long, although the net would take 30: Whisper's units
depend strongly on where in its input a sound lies (the same second of speech moved by 5 s: median
cosine 0.57 in tiny.en), and voices learn from clips of up to 15 s. A probe trained on such clips
predicts mels from units of seconds 0-15 equally well and from seconds 20-30 clearly worse (mean
error 0.91 -> 1.15 nepers on singing).
"""
SIZES = {384: "tiny", 512: "base", 768: "small", 1024: "medium", 1280: "large"}
"""Name of the model by its width."""

_HINT = (
    "It must be a Whisper model as OpenAI publishes it ({dims, model_state_dict}), or its encoder"
    " as .safetensors"
)
_ENCODER = r"^(?:model\.)?encoder\."
_LAYER = _ENCODER + r"layers\.(\d+)\."
# Hugging Face's names of the same tensors; the last line takes OpenAI's as they are.
_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (_ENCODER + r"embed_positions\.weight$", "positional_embedding"),
        (_ENCODER + r"layer_norm\.", "ln_post."),
        (_LAYER + r"self_attn_layer_norm\.", r"blocks.\1.attn_ln."),
        (_LAYER + r"final_layer_norm\.", r"blocks.\1.mlp_ln."),
        (_LAYER + r"fc1\.", r"blocks.\1.mlp.0."),
        (_LAYER + r"fc2\.", r"blocks.\1.mlp.2."),
        (_LAYER + r"self_attn\.q_proj\.", r"blocks.\1.attn.query."),
        (_LAYER + r"self_attn\.k_proj\.", r"blocks.\1.attn.key."),
        (_LAYER + r"self_attn\.v_proj\.", r"blocks.\1.attn.value."),
        (_LAYER + r"self_attn\.out_proj\.", r"blocks.\1.attn.out."),
        (_ENCODER, ""),
    )
)


@dataclass(frozen=True)
class WhisperConfig:
    """Sizes of one encoder; the names in brackets are OpenAI's."""

    n_mels: int  # [n_mels]
    n_positions: int  # 1500 frames, 30 s [n_audio_ctx]
    dim: int  # [n_audio_state]
    n_heads: int  # [n_audio_head]
    n_layers: int  # [n_audio_layer]


class Block(nn.Module):
    """Pre-norm Transformer block; attribute names are those of the checkpoints."""

    def __init__(self, dim: int, n_heads: int) -> None:
        super().__init__()
        self.attn = SelfAttention(dim, n_heads, key_bias=False)
        self.attn_ln = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.mlp_ln = nn.LayerNorm(dim)

    def forward(self, x: Tensor, n_queries: int | None = None) -> Tensor:
        """(B, T, D) -> (B, n_queries or T, D): the first positions, which still hear all T."""
        x = x[:, :n_queries] + self.attn(self.attn_ln(x), n_queries)
        y: Tensor = x + self.mlp(self.mlp_ln(x).to(self.mlp[0].weight.dtype))
        return y


class Whisper(nn.Module):
    """Log-mel spectrogram of 30 s -> hidden states."""

    positional_embedding: Tensor

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.n_mels, config.dim, 3, padding=1)
        self.conv2 = nn.Conv1d(config.dim, config.dim, 3, stride=2, padding=1)
        # Stored, not recomputed: the published table is float16 and differs from the formula by
        # 1e-4.
        self.register_buffer("positional_embedding", torch.zeros(config.n_positions, config.dim))
        self.blocks = nn.ModuleList(
            Block(config.dim, config.n_heads) for _ in range(config.n_layers)
        )
        self.ln_post = nn.LayerNorm(config.dim)

    def forward(self, mel: Tensor, n_frames: int) -> Tensor:
        """Encode; the padded rest is attended to, as in training, but only the wanted frames are
        finished.

        Args:
            mel: (B, n_mels, 2 * n_positions).
            n_frames: how many leading frames are wanted, 1..n_positions.

        Returns:
            (B, n_frames, D).
        """
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel.to(self.conv1.weight.dtype)))))
        x = x.transpose(1, 2) + self.positional_embedding  # float32 from here on
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            # Nothing attends to the last block's output, so there the padding need not be carried
            # along.
            x = block(x, n_frames if index == last else None)
        units: Tensor = self.ln_post(x[:, :n_frames])
        return units


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Return the encoder's tensors by OpenAI's names without "encoder.", and the sizes where the
    file states them.
    """
    if path.suffix == ".safetensors":
        tensors: Mapping[str, Any] = load_safetensors(path)[0]
        dims: Any = {}
    else:
        file = load_restricted(path)
        tensors, dims = file.get("model_state_dict", file), file.get("dims", {})
    if not isinstance(tensors, Mapping) or not isinstance(dims, Mapping):
        raise CheckpointError(f"{path} is not a Whisper model. {_HINT}")
    encoder = {
        own_name(name): tensor
        for name, tensor in tensors.items()
        if isinstance(name, str) and isinstance(tensor, Tensor) and re.match(_ENCODER, name)
    }
    return encoder, dims


def own_name(name: str) -> str:
    """Return a tensor's name in this module's net for its name in a file."""
    return rename(name, _RENAMES)


def infer_config(state: Mapping[str, Tensor], dims: Mapping[str, Any]) -> WhisperConfig:
    """Read the sizes from the tensors; only the number of heads may come from `dims`.

    Raises:
        KeyError, ValueError: these are not the tensors of such an encoder.
    """
    dim, n_mels, _ = state["conv1.weight"].shape
    layers = {int(m[1]) for name in state if (m := re.match(r"blocks\.(\d+)\.", name))}
    if not layers or layers != set(range(len(layers))):
        raise ValueError(f"blocks {sorted(layers)} are not numbered without gaps")
    heads = dims.get("n_audio_head")
    n_heads = heads if isinstance(heads, int) and heads > 0 else dim // HEAD_DIM
    if n_heads < 1 or dim % n_heads:
        raise ValueError(f"{n_heads} attention heads do not divide {dim} channels")
    return WhisperConfig(
        n_mels=n_mels,
        n_positions=len(state["positional_embedding"]),
        dim=dim,
        n_heads=n_heads,
        n_layers=len(layers),
    )


def load_whisper(path: Path) -> Whisper:
    """Load the encoder half of a Whisper model of any size.

    Args:
        path: OpenAI's ``{dims, model_state_dict}``, or `.safetensors` with OpenAI's or Hugging
            Face's names.

    Returns:
        The net in float32 on the CPU, in eval mode.

    Raises:
        MissingFileError: no such file.
        CheckpointError: truncated, hostile, or another kind of net.
    """
    state, dims = _read(path)
    try:
        net = Whisper(infer_config(state, dims))
    except (KeyError, ValueError, IndexError, TypeError) as error:
        reason = f"no tensor {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path} holds no Whisper encoder: {reason}. {_HINT}") from error
    load_state(net, state, what=str(path), hint=_HINT)
    return net.eval().requires_grad_(False)


_CLIPS_AT_ONCE = 8  # on an accelerator; a CPU is filled by one

USUAL_SECONDS = 15.0
"""Units depend on where in the window a sound lies (moved by 5 s: median cosine 0.57 on singing), so
a song is best encoded in stretches no longer than the clips a voice is trained on.
"""


class WhisperEncoder:
    """Units of Whisper's audio encoder ("PPG" in so-vits-svc 4.1).

    Args:
        net: the loaded net.
        name: id of the encoder.
        device: where to compute.
        precision: of the matrix products, see `svc.devices.PRECISIONS`; the log-mel, the norms and
            the units are float32 always.
    """

    def __init__(
        self,
        net: Whisper,
        *,
        name: str,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
    ) -> None:
        self.name = name
        self.device = torch.device(device)
        self.dim = net.config.dim
        self.usual_seconds = USUAL_SECONDS
        lower_precision(net, precision_dtype(precision))
        self._net = net.to(self.device)
        self._at_once = 1 if self.device.type == "cpu" else _CLIPS_AT_ONCE
        self._mel = whisper_mel(n_mels=net.config.n_mels)

    @property
    def net(self) -> Whisper:
        """The net, its weights in the precision and on the device it computes in."""
        return self._net

    def encode(self, wav16k: Tensor) -> Tensor:
        """Encode a wave of any length.

        Args:
            wav16k: (T,) samples at 16 kHz in [-1, 1]; below 320 samples it is zero-padded.

        Returns:
            (1, C, S) float32 on the encoder's device, S = floor(T / 320), at least 1. Up to 30 s
            the original's numbers; longer in overlapping windows of 15 s, where the original cut
            off the rest.

        Raises:
            AudioError: NaN or infinite samples.
        """
        return self.encode_batch([wav16k])[0]

    @torch.no_grad()
    def encode_batch(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """Encode several waves, each in its own 30 s of net input, `_CLIPS_AT_ONCE` at a time.

        Args:
            wavs: (T_i,) each, as for `encode`.

        Returns:
            What `encode` returns for each, in their order.

        Raises:
            AudioError: NaN or infinite samples in any of them.
        """
        waves = [prepare_wave(wav, HOP_LENGTH) for wav in wavs]
        counts = [len(wave) // HOP_LENGTH for wave in waves]
        units: list[Tensor | None] = [None] * len(waves)
        whole = self._net.config.n_positions
        # Like lengths together: the last block computes the frames of the longest for all.
        short = sorted((i for i, n in enumerate(counts) if n <= whole), key=lambda i: -counts[i])
        for first in range(0, len(short), self._at_once):
            members = short[first : first + self._at_once]
            longest = max(len(waves[i]) for i in members)
            batch = torch.stack([F.pad(waves[i], (0, longest - len(waves[i]))) for i in members])
            for i, encoded in zip(members, self._encode_pieces(batch)):
                units[i] = encoded[None, :, : counts[i]]
        for i, count in enumerate(counts):
            if units[i] is None:
                units[i] = encode_in_windows(
                    waves[i],
                    count,
                    self._encode_pieces,
                    window=min(WINDOW_FRAMES, whole),
                    field=HOP_LENGTH,
                    at_once=self._at_once,
                )
        return [item for item in units if item is not None]

    def _encode_pieces(self, wavs: Tensor) -> Tensor:
        """(B, T) -> (B, C, floor(T / 320)), at most n_positions frames."""
        n_positions = self._net.config.n_positions
        n_frames = min(wavs.shape[1] // HOP_LENGTH, n_positions)
        length = n_positions * HOP_LENGTH
        padded = F.pad(wavs.to(self.device), (0, max(0, length - wavs.shape[1])))[:, :length]
        mel = self._mel(padded)[..., : 2 * n_positions]
        units: Tensor = self._net(mel, n_frames)
        return units.transpose(1, 2)
