"""`svc compress`: a checkpoint without what only training needs (spec_core 8.8).

The posterior encoder and the optimizer's moments go, which is three quarters of the file; `half`
halves the rest. The result is marked as released, and `svc train` does not go on from it
(spec_core 10, I27).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from svc.atomic import atomic_path
from svc.checkpoint import classic_weight_norm_keys, load_checkpoint
from svc.config import SvcConfig, load_config
from svc.errors import CheckpointError, MissingFileError
from svc.export.sample_song import SECONDS, sample_song
from svc.export.voice_file import (
    POSTERIOR,
    SAFETENSORS,
    VoiceFile,
    check_numbers,
    check_suffix,
    check_target,
    check_voice,
    config_beside,
    config_inside,
    is_half,
    map_shared,
    net_rate_said,
    read_voice,
    write_voice,
)
from svc.synthesizer import load_synthesizer
from svc.synthesizer.loading import state_from_checkpoint

DEFAULT_CONFIG = Path("configs/config.json")
"""Where the original looks for the config."""

_LEARNING_RATE = 1e-4  # what the original writes
_HALF_MAX = torch.finfo(torch.float16).max  # 65504


@dataclass(frozen=True)
class CompressOptions:
    """What to compress and how.

    Attributes:
        input: a `G_*.pth`, or another weight file of a voice.
        output: None = ``<stem>_release[_half]<suffix>`` beside the input.
        config: None = `config.json` beside the input, else the one inside it, else
            `configs/config.json`.
        half: store float16.
        safetensors: write `.safetensors`.
        check: let both files sing and measure the difference.
        force: replace an output that is there.

    Raises:
        ConfigError: `safetensors` and an output of another suffix.
    """

    input: Path
    output: Path | None = None
    config: Path | None = None
    half: bool = False
    safetensors: bool = False
    check: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        if self.output is not None:
            check_suffix(self.output, self.safetensors)

    @property
    def target(self) -> Path:
        """Where the result goes."""
        if self.output is not None:
            return self.output
        suffix = SAFETENSORS if self.safetensors else self.input.suffix
        half = "_half" if self.half else ""
        return self.input.with_name(f"{self.input.stem}_release{half}{suffix}")


@dataclass(frozen=True)
class Difference:
    """How far two waveforms of one song are apart.

    Attributes:
        max_abs: largest difference of two samples, of a full scale of 1.
        snr_db: energy of the first, without its mean, over that of the difference, dB; infinite where
            they are equal.
        seconds: length of the song.
    """

    max_abs: float
    snr_db: float
    seconds: float

    @classmethod
    def between(cls, first: Tensor, second: Tensor, seconds: float) -> Difference:
        """Measure two (T,) waveforms."""
        apart = (first.double() - second.double()).abs()
        noise = float(apart.square().sum())
        heard = first.double() - first.double().mean()
        power = float(heard.square().sum())
        ratio = math.inf if noise == 0 else power / noise
        snr = 10 * math.log10(ratio) if 0 < ratio < math.inf else math.inf if ratio else -math.inf
        return cls(float(apart.max()), snr, seconds)


@dataclass(frozen=True)
class CompressReport:
    """What became of the file.

    Attributes:
        output: the result.
        bytes_before: size of the input.
        bytes_after: size of the result.
        dropped: tensors of the posterior encoder that were left out.
        half: whether the result is float16.
        was_released: the input had no posterior encoder.
        difference: None where it was not measured.
    """

    output: Path
    bytes_before: int
    bytes_after: int
    dropped: int
    half: bool
    was_released: bool
    difference: Difference | None


def compress(options: CompressOptions) -> CompressReport:
    """Strip a checkpoint to what singing needs.

    Args:
        options: what and how.

    Returns:
        Sizes and the measured difference.

    Raises:
        MissingFileError: no input, no config.
        ConfigError: the output is the input.
        OutputError: the output is there, or cannot be written.
        CheckpointError: not the synthesizer of this config, NaN, a weight beyond float16, or the
            result is not what it should be; then nothing is left of it.
    """
    target = options.target
    if not options.input.is_file():
        raise MissingFileError(f"checkpoint {options.input} is not there; check the path")
    check_target(target, [options.input], force=options.force)
    given = None if options.config is None else load_config(options.config)
    voice = read_voice(options.input)
    config = given or _find_config(voice)
    check_voice(voice, config)
    kept = {name: x for name, x in voice.state.items() if not name.startswith(POSTERIOR)}
    small = map_shared(kept, partial(_to_half, options.input) if options.half else _copy)
    if options.half:
        check_numbers(small, f"{options.input} in half precision", "leave out --half")
    extra = {**voice.lasting(), "released": True}
    extra.setdefault("origin", voice.origin())
    with atomic_path(target) as temporary:
        write_voice(
            small,
            temporary,
            config=config,
            iteration=0,
            learning_rate=_LEARNING_RATE,
            extra=extra,
        )
        _check_written(temporary, small, options.input)
        difference = None
        if options.check:
            difference = measure(options.input, temporary, config)
            if not options.half and difference.max_abs != 0:
                raise CheckpointError(
                    f"{options.input}: its compressed form sounds different (by up to "
                    f"{difference.max_abs:.2g}), which must not be; nothing was written; the "
                    "memory or disk of this machine may be faulty"
                )
    return CompressReport(
        output=target,
        bytes_before=options.input.stat().st_size,
        bytes_after=target.stat().st_size,
        dropped=len(voice.state) - len(kept),
        half=is_half(small),
        was_released=not voice.has_posterior,
        difference=difference,
    )


def measure(first: Path, second: Path, config: SvcConfig) -> Difference:
    """Let two files of a voice sing the same made-up song on the CPU, and compare.

    Args:
        first: weight file.
        second: the same in another form.
        config: of the voice.

    Raises:
        CheckpointError: one of them does not fit the config.
    """
    said = net_rate_said(config)
    song = sample_song(said)
    one, two = (song.sung_by(load_synthesizer(path, said)) for path in (first, second))
    return Difference.between(one, two, SECONDS)


def _find_config(voice: VoiceFile) -> SvcConfig:
    config = config_beside(voice.path) or config_inside(voice)
    if config is None and DEFAULT_CONFIG.is_file():
        config = load_config(DEFAULT_CONFIG)
    if config is None:
        raise MissingFileError(
            f"no config.json beside {voice.path}; give the config of the voice with -c"
        )
    return config


def _copy(name: str, tensor: Tensor) -> Tensor:
    """Give a tensor memory of its own: saved as it is, a mapped one could bring the whole file."""
    return tensor.detach().contiguous().clone()


def _to_half(what: Path, name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return _copy(name, tensor)
    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    if largest > _HALF_MAX:
        raise CheckpointError(
            f"{what}: the tensor {name} holds {largest:.6g}, beyond the {_HALF_MAX:g} of half precision; "
            "leave out --half"
        )
    return tensor.detach().to(torch.float16, copy=True).contiguous()


def _check_written(path: Path, small: dict[str, Tensor], source: Path) -> None:
    """Compare a file with what was to be written, bit for bit."""
    content = load_checkpoint(path, mmap=True)
    written = classic_weight_norm_keys(state_from_checkpoint(content, what=str(path)))
    same = written.keys() == small.keys() and all(
        written[name].dtype == x.dtype and torch.equal(written[name], x)
        for name, x in small.items()
    )
    if not same:
        raise CheckpointError(
            f"the compressed form of {source} reads differently than it was written; nothing is "
            "left of it; the memory or disk of this machine may be faulty"
        )
