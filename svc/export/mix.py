"""`svc mix`: one new voice whose weights are the weighted sum of others' (spec_core 8.9).

    mix[name] = Σ_i w_i · voice_i[name]        for every tensor, weight_g and weight_v each for itself

That sings only where the nets have a common past: checkpoints of one run, or voices trained from
the same base model. `Mixed.likeness` tells.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svc.errors import CheckpointError, ConfigError
from svc.export.mixed_config import MixedConfig, common_config
from svc.export.voice_file import (
    POSTERIOR,
    VoiceFile,
    check_numbers,
    check_suffix,
    check_target,
    check_voice,
    map_shared,
    read_voice,
    write_voice,
)
from svc.f0.range_files import RANGE_FILE, RANGE_KEY, plain_ranges, ranges_in, read_ranges
from svc.f0.voice_range import VoiceRange
from svc.progress import Progress, silent

logger = logging.getLogger(__name__)

MODES = ("normalized", "linear", "convex")
UNRELATED = 0.5
"""Likeness below which nets have no common past: the weights of two random nets are near 0."""

_MAX_PERCENT = 1e6
_MAX_LISTED = 4  # tensors named in one message


@dataclass(frozen=True)
class MixOptions:
    """What to mix and how.

    Attributes:
        inputs: two or more weight files of voices.
        output: the result, `.safetensors` by its suffix.
        percents: one number per input; None = 100 each.
        mode: how percents become weights, see `weights_of`.
        config: config of all the voices; None = that beside or inside each file.
        speakers: names of the mix's voices in the order of their ids; None = the inputs' names.
        safetensors: write `.safetensors`; the suffix of `output` alone says so too.
        half: write float16; only for inputs that are.
        force: replace an output, and a config beside it, that are there.

    Raises:
        ConfigError: too few inputs, or numbers that make no weights.
    """

    inputs: tuple[Path, ...]
    output: Path
    percents: tuple[float, ...] | None = None
    mode: str = "normalized"
    config: Path | None = None
    speakers: tuple[str, ...] | None = None
    safetensors: bool = False
    half: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        check_suffix(self.output, self.safetensors)
        if len(self.inputs) < 2:
            raise ConfigError(f"a mix needs two or more files, not {len(self.inputs)}")
        if len(self.weights) != len(self.inputs):
            raise ConfigError(
                f"-w has {len(self.weights)} numbers for {len(self.inputs)} files; give one each"
            )

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each input."""
        percents = (100.0,) * len(self.inputs) if self.percents is None else self.percents
        return weights_of(percents, self.mode)


def weights_of(percents: Sequence[float], mode: str) -> tuple[float, ...]:
    """Turn the numbers of ``-w`` into weights.

    Args:
        percents: p, one per voice.
        mode: ``normalized``: p / Σp. ``linear``, as in so-vits-svc 4.1: p / 100, whatever that adds up
            to. ``convex``, as there: softmax(p / 100), which is close to equal shares: 70 and 30 give
            0.60 and 0.40, and 100 and 0 give 0.73 and 0.27.

    Returns:
        The weights; they add up to 1 but for ``linear``.

    Raises:
        ConfigError: an unknown mode, numbers that are not finite, all 0, or, for ``normalized``, below 0.
    """
    if mode not in MODES:
        raise ConfigError(f'--mode is one of {", ".join(MODES)}, not "{mode}"')
    shown = " ".join(f"{percent:g}" for percent in percents)
    if not all(abs(percent) <= _MAX_PERCENT for percent in percents):  # NaN neither
        raise ConfigError(
            f"-w {shown}: the weights are numbers in percent, at most {_MAX_PERCENT:g}"
        )
    if mode == "convex":
        largest = max(percents)
        parts = [math.exp((percent - largest) / 100) for percent in percents]
        return tuple(part / math.fsum(parts) for part in parts)
    if not any(percents):
        raise ConfigError(f"-w {shown}: one of the weights must not be 0")
    if mode == "linear":
        return tuple(percent / 100 for percent in percents)
    if min(percents) < 0:
        raise ConfigError(
            f"-w {shown}: the weights of --mode normalized are shares from 0 up; --mode linear allows "
            "others"
        )
    return tuple(percent / math.fsum(percents) for percent in percents)


@dataclass(frozen=True)
class Mixed:
    """What was made.

    Attributes:
        output: the file.
        weights: one per input.
        likeness: cosine of the convolutions' weights of each input with those of the first, -1..1.
        n_tensors: in the file.
        has_posterior: whether training can go on from it.
        config: the `config.json` beside it.
        ranges: which notes each speaker sings, of those for whom all voices of the mix know it.
        notes: lines the user should read.
    """

    output: Path
    weights: tuple[float, ...]
    likeness: tuple[float, ...]
    n_tensors: int
    has_posterior: bool
    config: Path
    ranges: Mapping[str, VoiceRange]
    notes: tuple[str, ...]


def mix(options: MixOptions, progress: Progress | None = None) -> Mixed:
    """Mix voices into a new one.

    Args:
        options: what and how.
        progress: called after each file.

    Returns:
        What was made.

    Raises:
        MissingFileError: an input or every config is not there.
        ConfigError: the voices' configs differ in what the nets depend on.
        CheckpointError: an input is no voice, not finite, or another net than the first; or the
            mix leaves the range of numbers.
        OutputError: the output or a different config beside it is there, or cannot be written.
    """
    report, total = progress or silent, len(options.inputs) + 1
    weights = options.weights
    check_target(options.output, list(options.inputs), force=options.force)
    voices = []
    for number, path in enumerate(options.inputs, 1):
        voices.append(read_voice(path))
        report(number, total, path.name)
    found = common_config(voices, options.config, options.speakers)
    found.check_place(options.output.parent, force=options.force)
    for voice in voices:
        check_voice(voice, found.config)
    with_posterior = all(voice.has_posterior for voice in voices)
    states = [_singing(voice, with_posterior) for voice in voices]
    _check_alike(voices, states)
    if options.half and not all(voice.is_half for voice in voices):
        raise ConfigError(
            "--half is for inputs that are all in half precision; mix without it, then run  "
            "svc compress --half"
        )
    ranges, notes = mixed_ranges(voices, weights, found)
    if not with_posterior and any(voice.has_posterior for voice in voices):
        notes.append(
            "one of the files is compressed, so the mix has no posterior encoder: it sings, but "
            "training cannot go on from it"
        )
    if not math.isclose(math.fsum(weights), 1, abs_tol=1e-6):
        logger.warning(
            "the weights add up to %g, not 1: the mix is no average, and may be noise",
            math.fsum(weights),
        )
    state = mix_states(states, weights, torch.float16 if options.half else torch.float32)
    check_numbers(state, "the mix", "choose weights from 0 to 100 that add up to 100")
    write_voice(
        state,
        options.output,
        config=found.config,
        iteration=voices[0].iteration,
        learning_rate=found.config.train.learning_rate,
        extra=_extra(voices, weights, options.mode, found, ranges, released=not with_posterior),
    )
    placed = found.place(options.output.parent)
    report(total, total, options.output.name)
    alike = tuple(likeness(states[0], other) for other in states)
    for voice, cosine in zip(voices, alike, strict=True):
        if cosine < UNRELATED:
            notes.append(
                f"{voice.path} has little in common with {voices[0].path} (likeness {cosine:.2f}): only "
                "voices trained from one base model, or checkpoints of one run, make a mix that sings"
            )
    return Mixed(
        output=options.output,
        weights=weights,
        likeness=alike,
        n_tensors=len(state),
        has_posterior=with_posterior,
        config=placed,
        ranges=ranges,
        notes=tuple(notes),
    )


# ---- tensors -------------------------------------------------------------------------------------


def mix_states(
    states: Sequence[Mapping[str, Tensor]], weights: Sequence[float], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Add tensors up, in float64.

    The filters of the snake decoder are constants of the architecture: they are the first state's,
    also where the weights do not add up to 1.

    Args:
        states: tensors by name, of the same names and shapes.
        weights: one per state.
        dtype: of the result's floating-point tensors.

    Returns:
        The mix, in the order of the first state; names that share a tensor in it share one here.
    """
    terms = [(state, weight) for state, weight in zip(states, weights, strict=True) if weight != 0]

    def combine(name: str, first: Tensor) -> Tensor:
        if not first.is_floating_point() or name.endswith(".filter"):
            kind = dtype if first.is_floating_point() else first.dtype
            return first.detach().to(kind, copy=True)
        total: Tensor = torch.zeros(0)
        for number, (state, weight) in enumerate(terms):
            part = state[name].double() * weight
            total = total + part if number else part
        return total.to(dtype).contiguous()

    return map_shared(states[0], combine)


def likeness(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> float:
    """Return the cosine of two nets' convolution weights, -1..1; 1 where they are the same.

    Args:
        one: tensors by name.
        two: others of the same names and shapes.
    """
    names = [name for name, x in one.items() if x.dim() == 3 and not name.endswith("weight_g")]
    product = energy_one = energy_two = 0.0
    for name in names:
        a, b = one[name].double().flatten(), two[name].double().flatten()
        product += float(a @ b)
        energy_one += float(a @ a)
        energy_two += float(b @ b)
    return product / math.sqrt(energy_one * energy_two) if energy_one and energy_two else 0.0


def _singing(voice: VoiceFile, with_posterior: bool) -> dict[str, Tensor]:
    if with_posterior:
        return voice.state
    return {name: x for name, x in voice.state.items() if not name.startswith(POSTERIOR)}


def _check_alike(voices: Sequence[VoiceFile], states: Sequence[Mapping[str, Tensor]]) -> None:
    """Refuse states of other names or shapes than the first: folded and unfolded files fit one
    config.
    """
    first = states[0]
    for voice, state in zip(voices[1:], states[1:], strict=True):
        lines = [f"{name} only in {voices[0].path}" for name in first if name not in state]
        lines += [f"{name} only in {voice.path}" for name in state if name not in first]
        lines += [
            f"{name} {list(first[name].shape)} and {list(x.shape)}"
            for name, x in state.items()
            if name in first and first[name].shape != x.shape
        ]
        if lines:
            more = f"; and {len(lines) - _MAX_LISTED} more" if len(lines) > _MAX_LISTED else ""
            raise CheckpointError(
                f"{voices[0].path} and {voice.path} do not hold the same tensors: "
                f"{'; '.join(lines[:_MAX_LISTED])}{more}; mix files of the same kind"
            )


# ---- what goes with them -------------------------------------------------------------------------


def mixed_ranges(
    voices: Sequence[VoiceFile], weights: Sequence[float], found: MixedConfig
) -> tuple[dict[str, VoiceRange], list[str]]:
    """Mix what is known of which notes the voices sing.

    Args:
        voices: the inputs.
        weights: one per input.
        found: tells each input's names for the speakers.

    Returns:
        Speaker -> range, and lines for the user about speakers that are left out.

    Raises:
        SvcError: a range is damaged.
    """
    known = [
        {
            **read_ranges(voice.path.with_name(RANGE_FILE)),
            **ranges_in({"svc": voice.extra}, voice.path),
        }
        for voice in voices
    ]
    used = [index for index, weight in enumerate(weights) if weight != 0]
    ranges, notes = {}, []
    for speaker, number in found.config.spk.items():
        own = [known[index].get(found.name_of(number, index, speaker)) for index in used]
        parts = [part for part in own if part is not None]
        if not parts:
            continue
        if len(parts) < len(own) or min(weights) < 0:
            notes.append(
                f"which notes {speaker} sings is not known: measure it with  svc voice-range"
            )
        elif all(part == parts[0] for part in parts):
            ranges[speaker] = parts[0]
        else:
            shares = [weights[index] for index in used]
            ranges[speaker] = VoiceRange.mixed(list(zip(parts, shares, strict=True)))
    return ranges, notes


def _extra(
    voices: Sequence[VoiceFile],
    weights: Sequence[float],
    mode: str,
    found: MixedConfig,
    ranges: Mapping[str, VoiceRange],
    *,
    released: bool,
) -> dict[str, Any]:
    """The entry ``svc`` of the mix."""
    first = {key: value for key, value in voices[0].lasting().items() if key != "origin"}
    parts = [
        {**voice.origin(), "weight": weight} for voice, weight in zip(voices, weights, strict=True)
    ]
    return {
        **first,
        "config": found.config.to_dict(),
        "speakers": dict(found.config.spk),
        "encoder": found.config.model.speech_encoder,
        "released": released,
        "mix": {"mode": mode, "voices": parts},
        RANGE_KEY: plain_ranges(ranges),
    }
