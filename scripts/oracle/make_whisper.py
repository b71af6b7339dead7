"""Whisper's encoder of openai-whisper, in OpenAI's files (spec_encoders 8)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from cases import END, Tap
from nets import Net, perturb, round_to_half, tensors
from torch import Tensor
from whisper.audio import N_SAMPLES, log_mel_spectrogram, pad_or_trim
from whisper.model import AudioEncoder, ModelDimensions, TextDecoder

_SIZES = {  # dim, heads, layers, mel bands, words; as published
    "whisper-tiny": (384, 6, 4, 80, 51865),
    "whisper-base": (512, 8, 6, 80, 51865),
    "whisper-small": (768, 12, 12, 80, 51865),
    "whisper-medium": (1024, 16, 24, 80, 51865),
    "whisper-large-v2": (1280, 20, 32, 80, 51865),
    "whisper-large-v3": (1280, 20, 32, 128, 51866),
}
_REAL = Path("weights", "whisper_tiny_en_encoder.pt")  # of the shared folder


def _encoder(dims: ModelDimensions) -> AudioEncoder:
    return AudioEncoder(
        dims.n_mels, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, dims.n_audio_layer
    ).eval()


def _decoder_state(dims: ModelDimensions) -> dict[str, Tensor]:
    """The decoder's tensors, all zero: they must be in the file, nobody reads them."""
    with torch.device("meta"):
        decoder = TextDecoder(
            dims.n_vocab, dims.n_text_ctx, dims.n_text_state, dims.n_text_head, dims.n_text_layer
        )
    return {
        f"decoder.{name}": torch.zeros(value.shape, dtype=torch.float16)
        for name, value in decoder.state_dict().items()
    }


def build(name: str, shared: Path) -> Net:
    if name == "whisper-real":
        path = shared / _REAL
        file = torch.load(path, weights_only=True)
        dims = ModelDimensions(**file["dims"])
        module = _encoder(dims)
        state = file["model_state_dict"]
        module.load_state_dict(
            {key.removeprefix("encoder."): value for key, value in state.items()}
        )
    else:
        dim, heads, layers, n_mels, words = _SIZES[name]
        dims = ModelDimensions(n_mels, 1500, dim, heads, layers, words, 448, dim, heads, layers)
        module = _encoder(dims)
        perturb(module)
        round_to_half(module)

    def prepare(wave: Tensor) -> Tensor:
        """(1, T) -> mel (1, M, 3000)."""
        return log_mel_spectrogram(pad_or_trim(wave[0], N_SAMPLES), dims.n_mels)[None]

    def run(mel: Tensor, taps: tuple[Tap, ...]) -> dict[Tap, Tensor]:
        return {END: module(mel)[0]}

    def save(folder: Path) -> list[Path]:
        if name == "whisper-real":
            return [path]
        state = {f"encoder.{key}": value.half() for key, value in tensors(module).items()}
        target = folder / f"{name.removeprefix('whisper-')}.pt"
        torch.save(
            {"dims": asdict(dims), "model_state_dict": {**state, **_decoder_state(dims)}}, target
        )
        return [target]

    return Net(module, run, save, prepare=prepare)
