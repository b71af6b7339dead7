"""What a listener chooses for one conversion. No torch here: a wrong flag is answered at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from svc.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from svc.conversion.cached_hearing import HearingCache

DEFAULT_SEED = 52468
"""Seed of the original's inference (spec_core 2.9), used for every stretch of audio alike."""

MAX_SEED = 2**63 - 1

Mode = Literal["sovits", "sovdiff", "diff"]
"""As so-vits-svc 4.1 names its results."""
Fit = Literal["no", "semitones", "octaves"]
_FITS: dict[str, Fit] = {"auto": "semitones", "auto-octave": "octaves"}
"""What `-t` takes besides numbers."""


@dataclass(frozen=True)
class InferOptions:
    """Settings of one conversion; defaults as in so-vits-svc 4.1 (spec_core 8.7).

    Raises:
        ConfigError: a value is out of its range; the message names the flag.
    """

    transpose: float = 0.0  # semitones added to the melody (-t)
    fit_to_voice: Fit = "no"  # choose `transpose` by the voice's range (-t auto, auto-octave)
    auto_f0: bool = False  # predict the melody instead of following the source's (-a)
    noise_scale: float = 0.4  # standard deviation of the prior's noise, 0 = none (-ns)
    slice_db: float = -40.0  # dBFS below which audio counts as silence (-sd)
    clip_seconds: float = 0.0  # forced cuts every so many seconds, 0 = cut at silences only (-cl)
    crossfade_seconds: float = 0.0  # overlap of forced cuts; no effect without clip_seconds (-lg)
    crossfade_retain: float = 0.75  # share of the overlap that is faded, in (0, 1] (-lgr)
    pad_seconds: float = 0.5  # context rendered on both sides of every stretch, then cut off (-p)
    cluster_ratio: float = 0.0  # share of the target's own timbre from clusters or index (-cr)
    protect: float = 0.0  # how much of that share unvoiced frames are spared (--protect)
    mode: Mode = "sovits"  # what sings: the voice, diffusion going over it, or diffusion alone
    k_step: int = 100  # steps of noise that shallow diffusion puts in and takes out again (-ks)
    second_encoding: bool = False  # diffusion hears the voice's own result (-se)
    enhancer_key: int = 0  # semitones by which the enhancer hears the result lower (-eak)
    loudness_envelope: float = 1.0  # 1 = keep the model's loudness, 0 = impose the source's (-lea)
    keep_breath: float = 0.0  # share of the source's own sound in breaths (--keep_breath)
    keep_unvoiced: float = 0.0  # the same in consonants without voice (--keep_unvoiced)
    max_chunk_seconds: float | None = None  # longest stretch without a cut; 0 = unlimited,
    # None = what the speech encoder is at home with: bounds memory, keeps units as in training
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        _check("-t/--trans", self.transpose, -60.0, 60.0, "semitones")
        if self.fit_to_voice not in get_args(Fit):
            raise ConfigError(
                f'fit_to_voice is "{self.fit_to_voice}": choose {", ".join(get_args(Fit))}'
            )
        if self.auto_f0 and self.fit_to_voice != "no":
            raise ConfigError(
                "-t auto and -a/--auto_predict_f0: there is no melody to transpose where the voice "
                "chooses its own pitch; leave one of them out"
            )
        _check("-ns/--noise_scale", self.noise_scale, 0.0, 10.0)
        _check("-sd/--slice_db", self.slice_db, -200.0, 0.0, "dBFS")
        _check("-cl/--clip", self.clip_seconds, 0.0, 3600.0, "seconds")
        _check("-lg/--linear_gradient", self.crossfade_seconds, 0.0, 3600.0, "seconds")
        _check("-lgr/--linear_gradient_retain", self.crossfade_retain, 0.0, 1.0)
        _check("-p/--pad_seconds", self.pad_seconds, 0.0, 60.0, "seconds")
        _check("-cr/--cluster_infer_ratio", self.cluster_ratio, 0.0, 1.0)
        _check("--protect", self.protect, 0.0, 1.0)
        if self.k_step < 1:
            raise ConfigError(f"-ks/--k_step is {self.k_step}: give a whole number from 1 up")
        _check("-eak/--enhancer_adaptive_key", self.enhancer_key, -24, 24, "semitones")
        _check("-lea/--loudness_envelope_adjustment", self.loudness_envelope, 0.0, 1.0)
        _check("--keep_breath", self.keep_breath, 0.0, 1.0)
        _check("--keep_unvoiced", self.keep_unvoiced, 0.0, 1.0)
        longest = self.max_chunk_seconds or 0.0
        _check("--max_chunk", longest, 0.0, 3600.0, "seconds")
        if self.crossfade_retain == 0.0:
            raise ConfigError("-lgr/--linear_gradient_retain is 0: give more than 0, at most 1")
        if 0.0 < self.clip_seconds < 0.1:
            raise ConfigError(
                f"-cl/--clip is {self.clip_seconds:g} seconds: give 0 (cut at silences only) "
                "or at least 0.1"
            )
        if 0.0 < longest < 1.0:
            raise ConfigError(
                f"--max_chunk is {longest:g} seconds: give 0 (no limit) or at least 1"
            )
        if self.clip_seconds > 0.0 and self.crossfade_seconds > self.clip_seconds:
            raise ConfigError(
                f"-lg/--linear_gradient ({self.crossfade_seconds:g} s) is longer than "
                f"-cl/--clip ({self.clip_seconds:g} s): the overlap must fit into one clip"
            )
        if not 0 <= self.seed <= MAX_SEED:
            raise ConfigError(f"--seed is {self.seed}: give a whole number from 0 to {MAX_SEED}")


@dataclass(frozen=True)
class HearingChoice:
    """How a voice listens to songs, and where it computes."""

    device: str | torch.device | None = None  # None = the best there is
    f0_predictor: str | None = "pm"  # an id of `svc.f0`; None = every song comes with a curve
    f0_min: float = 50.0  # Hz, lowest pitch looked for
    f0_max: float = 1100.0  # Hz
    f0_threshold: float | None = None  # of the neural predictors; None = the usual one of each
    # weights of the speech encoder, for two fused ones "ID=PATH,ID=PATH"; None = as the config says
    encoder_path: str | Path | None = None
    encoder_precision: str = "fp32"  # of the encoder's matrix products
    pretrain_dir: str | Path = "pretrain"  # folder of downloaded weights
    compat: bool = False  # with the slips of so-vits-svc 4.1
    cluster_path: str | Path | None = None  # k-means clusters or a retrieval index (-cm)
    index_k: int = 8  # nearest vectors of an index that are averaged
    index_nprobe: int | None = None  # lists of an index that are searched; None = as it says
    cache: HearingCache | None = None  # remembers units and pitch between runs


@dataclass(frozen=True)
class DiffusionChoice:
    """Which diffusion model sings along, and how."""

    model: Path  # (-dm)
    config: Path | None = None  # None = config.yaml beside the model (-dc)
    vocoder: Path | None = None  # None = the one that the config names (--vocoder)
    method: str | None = None  # sampler; None = the config's (--diffusion_method)
    speedup: int | None = None  # None = the config's (--diffusion_speedup)
    # of both nets' products, a name of `svc.devices.PRECISIONS`; None = as the voice's generator
    precision: str | None = "fp32"  # (--diffusion_precision)

    @property
    def config_path(self) -> Path:
        """The config to read."""
        return self.model.parent / "config.yaml" if self.config is None else self.config


def check_enhancer(*, exported: bool, diffuses: bool) -> None:
    """Raise ConfigError where an enhancer has no place: after diffusion, and after graphs."""
    if diffuses:
        raise ConfigError(
            "-eh/--enhance and diffusion (-shd or -od): a vocoder has sung the result already, and "
            "so-vits-svc 4.1 does without the enhancer too; leave one of them out"
        )
    if exported:
        raise ConfigError(
            "-eh/--enhance and an exported voice: its graphs have no enhancer; sing with its checkpoint"
        )


def with_transposition(options: InferOptions, value: float | str) -> InferOptions:
    """Return options with one value of `-t`: semitones, "auto" or "auto-octave". Raises
    ConfigError.
    """
    if not isinstance(value, str):
        return replace(options, transpose=float(value), fit_to_voice="no")
    if value not in _FITS:
        raise ConfigError(f'-t "{value}": give semitones, auto or auto-octave')
    return replace(options, transpose=0.0, fit_to_voice=_FITS[value])


def _check(flag: str, value: float, low: float, high: float, unit: str = "") -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise ConfigError(
            f"{flag} is {value:g}: give a number from {low:g} to {high:g} {unit}".rstrip()
        )
