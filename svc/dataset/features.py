"""The feature files beside a recording: the one place that knows their names, shapes and freshness.

so-vits-svc 4.1 layout, spec_core 6.4: for ``a.wav``

=====================  =====================================================================
``a.wav.soft.pt``      units, torch float32 (1, C, S)
``a.wav.f0.npy``       f0 in Hz (filled through unvoiced frames) and uv (1 = voiced), (2, N)
``a.wav.vol.npy``      volume, linear RMS per frame, float32 (N,)
``a.spec.pt``          linear spectrogram, torch float32 (F, N); optional
``a.wav.mel.npy``      log-mel as the vocoder measures it, float32 (N, M); with --use_diff, like
                       the next two (spec_diffusion 10)
``a.wav.aug_mel.npy``  the same of the clip shifted in pitch, float32 (N, M + 1): the last column
                       is the shift in semitones (the original: a pickled pair)
``a.wav.aug_vol.npy``  volume of that changed clip, float32 (N,)
``a.wav.meta.json``    ours: the settings of each part; size, time and hash of the recording
=====================  =====================================================================

N = samples // hop_length. Files of the original are read too; its pickled object arrays go through a
reader that takes nothing but floats.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svc.atomic import atomic_path, output_error, write_text
from svc.audio.pitch import F0Track
from svc.config import SvcConfig
from svc.dataset.feature_files import load_f0 as load_f0
from svc.dataset.feature_files import load_mels, load_units, load_volume
from svc.dataset.feature_paths import FeaturePaths as FeaturePaths
from svc.dataset.feature_settings import MEL_PARTS, FeatureSettings, is_edited
from svc.dataset.fingerprint import fingerprint, same_recording
from svc.dataset.tensor_files import load_tensor, save_tensor
from svc.errors import DatasetError, MissingFileError

META_VERSION = 1
PARTS = ("units", "f0", "volume", "spec", *MEL_PARTS)
_ADVICE = "run  svc preprocess --stage features"
_MEL_ADVICE = f"{_ADVICE} --use_diff"


@dataclass(frozen=True)
class ClipFeatures:
    """Features of one recording, float32 tensors on the CPU."""

    units: Tensor  # (C, S), C = width of the encoder, S about 50 per second
    f0: Tensor  # (N,) Hz, filled through unvoiced frames
    uv: Tensor  # (N,) 1 = voiced
    volume: Tensor | None = None  # (N,) linear RMS
    spec: Tensor | None = None  # (F, N) magnitude


@dataclass(frozen=True)
class ClipMels:
    """What only the diffusion model learns from, float32 tensors on the CPU."""

    mel: Tensor  # (N, M) natural log
    aug_mel: Tensor  # (N, M) of the clip changed in loudness and pitch
    aug_volume: Tensor  # (N,) of that clip
    key_shift: float  # semitones by which it was shifted


def read_meta(wav: Path) -> dict[str, Any] | None:
    """Return the side-car of a recording; None where there is none that can be read."""
    try:
        meta = json.loads(FeaturePaths.of(wav).meta.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(meta, dict) or meta.get("version") != META_VERSION:
        return None
    return meta


class FeatureCache:
    """Saves and loads the feature files of recordings.

    Args:
        settings: what the features are, or have to be, made with.
    """

    def __init__(self, settings: FeatureSettings) -> None:
        self.settings = settings

    @classmethod
    def from_config(cls, config: SvcConfig) -> FeatureCache:
        """Return a cache to load from: what the config says about encoder, rate and hop is checked
        on loading.
        """
        return cls(
            FeatureSettings(
                speech_encoder=config.model.speech_encoder,
                sampling_rate=config.data.sampling_rate,
                hop_length=config.data.hop_length,
                filter_length=config.data.filter_length,
                win_length=config.data.win_length,
            )
        )

    def stale(self, wav: Path, parts: tuple[str, ...] = ("units", "f0", "volume")) -> set[str]:
        """Return which parts have to be (re)computed: absent, made with other settings or from
        another recording.

        Files without a side-car, like those of the original, count as stale: nothing says what made
        them (spec_core 10, D6).
        """
        paths, meta = FeaturePaths.of(wav), read_meta(wav)
        if meta is None or not same_recording(wav, meta.get("wav")):
            return set(parts)
        return {
            part
            for part in parts
            if not self.settings.fits(part, meta.get(part)) or not getattr(paths, part).is_file()
        }

    def is_fresh(self, wav: Path, parts: tuple[str, ...] = ("units", "f0", "volume")) -> bool:
        """Return whether all these parts are there and up to date."""
        return not self.stale(wav, parts)

    def save(self, wav: Path, **parts: Tensor) -> None:
        """Save parts of the features and note their settings; parts not given stay if they are up
        to date.

        Args:
            wav: the recording; its files are written beside it.
            **parts: ``units`` (C, S) or (1, C, S); ``f0`` (2, N) with uv as second row; ``volume``
                (N,); ``spec`` (F, N); ``mel`` (N, M); ``aug_mel`` (N, M + 1), ``aug_volume`` (N,).

        Raises:
            DatasetError: a value is not finite.
            OutputError: a file cannot be written.
        """
        paths = FeaturePaths.of(wav)
        for part, value in parts.items():
            if part not in PARTS:
                raise ValueError(f"no feature part {part!r}; known: {PARTS}")
            if value.numel() == 0 or not bool(torch.isfinite(value).all()):
                raise DatasetError(
                    f"{wav}: its {part} came out empty or not finite; listen to the recording and "
                    "replace it"
                )
        fresh = set(PARTS) - self.stale(wav, PARTS) - parts.keys()
        # What is kept keeps its record too: nothing new is known about it.
        earlier = read_meta(wav) or {}
        # Without a side-car nothing is fresh, so a crash between two files never leaves a mixed set
        # that looks whole.
        try:
            paths.meta.unlink(missing_ok=True)
        except OSError as error:
            raise output_error(paths.meta, error) from error
        for part, value in parts.items():
            tensor = value.detach().float().cpu()
            if part == "units":
                save_tensor(tensor.reshape(1, *tensor.shape[-2:]), paths.units)
            elif part == "spec":
                save_tensor(tensor, paths.spec)
            else:
                _save_array(tensor.numpy(), getattr(paths, part))
        meta = {
            "version": META_VERSION,
            "wav": fingerprint(wav, with_hash=True),
            **{
                part: self.settings.of(part) if part in parts else earlier[part]
                for part in PARTS
                if part in parts or part in fresh
            },
        }
        write_text(paths.meta, json.dumps(meta, indent=1) + "\n")

    def save_edited_f0(self, wav: Path, track: F0Track, curve: str) -> None:
        """Put an edited F0 in the place of the predictor's; the other parts stay as they are.

        It counts as up to date whatever the predictor, until the recording changes or it is
        computed anew on purpose (`FeatureSettings.keep_edited`).

        Args:
            wav: the recording.
            track: samples // hop_length frames.
            curve: name of the file it comes from, for the record.

        Raises:
            OutputError: a file cannot be written.
        """
        paths = FeaturePaths.of(wav)
        earlier = read_meta(wav)
        if earlier is None or not same_recording(wav, earlier.get("wav")):
            earlier = {}  # nothing says that the other parts belong to this recording
        record = {"edited": True, "curve": curve, **self.settings.of("volume")}
        meta = {"version": META_VERSION, "wav": fingerprint(wav, with_hash=True)}
        meta |= {part: earlier[part] for part in PARTS if part in earlier} | {"f0": record}
        try:
            paths.meta.unlink(missing_ok=True)
        except OSError as error:
            raise output_error(paths.meta, error) from error
        _save_array(np.stack([track.f0, track.uv]), paths.f0)
        write_text(paths.meta, json.dumps(meta, indent=1) + "\n")

    def has_edited_f0(self, wav: Path) -> bool:
        """Return whether a recording keeps an F0 that a person has edited."""
        meta = read_meta(wav)
        return meta is not None and is_edited(meta.get("f0")) and self.is_fresh(wav, ("f0",))

    def load(self, wav: Path, *, spec: bool = False) -> ClipFeatures:
        """Load the features of a recording, ours or the original's.

        Which F0 predictor made the F0 is of no interest to a reader and not checked; the encoder
        is, where the side-car tells, and so is that the recording has not changed since.

        Args:
            wav: the recording.
            spec: load the spectrogram too, if its file is there and up to date.

        Returns:
            The features; `volume` is None when its file is not there (the original writes it only
            when asked to).

        Raises:
            MissingFileError: a file is absent.
            DatasetError: a file is damaged or refused, or the features do not belong to this
                recording or encoder.
        """
        meta = read_meta(wav)
        if meta is not None:
            self._check_recording(wav, meta)
            self._check_made(wav, meta, "units", "f0")
        units, track = load_units(wav), load_f0(wav)
        volume = load_volume(wav, len(track))
        return ClipFeatures(
            units=units,
            f0=torch.from_numpy(track.f0.copy()),
            uv=torch.from_numpy(track.uv.copy()),
            volume=None if volume is None else torch.from_numpy(volume),
            spec=self.load_spec(wav) if spec else None,
        )

    def load_f0(self, wav: Path) -> F0Track:
        """Load the pitch of a recording alone, whatever encoder its units are of.

        Args:
            wav: the recording.

        Returns:
            The track, of the rate and hop of the settings as far as the side-car tells.

        Raises:
            MissingFileError: the file is absent.
            DatasetError: it is damaged or refused, or does not belong to this recording or grid.
        """
        meta = read_meta(wav)
        if meta is not None:
            self._check_recording(wav, meta)
            self._check_made(wav, meta, "f0")
        return load_f0(wav)

    def load_spec(self, wav: Path) -> Tensor | None:
        """Return the cached spectrogram (F, N), or None when there is no usable one.

        A file of the original has no side-car; it is taken if its bins fit, the caller compares its
        frames.
        """
        paths, meta = FeaturePaths.of(wav), read_meta(wav)
        if meta is not None and meta.get("spec") != self.settings.of("spec"):
            return None
        for path in (paths.spec, paths.old_spec(wav)):
            if path.is_file():
                spec = load_tensor(path)
                if spec.dim() == 3 and spec.shape[0] == 1:
                    spec = spec[0]
                bins = self.settings.filter_length // 2 + 1
                return spec if spec.dim() == 2 and spec.shape[0] == bins else None
        return None

    def load_mels(self, wav: Path) -> ClipMels:
        """Load the mels of a recording, ours or the original's.

        Args:
            wav: the recording.

        Returns:
            Mel and augmentation; with as many frames as the files hold.

        Raises:
            MissingFileError: a file is absent.
            DatasetError: a file is damaged or refused, or the mels do not belong to this recording
                or vocoder.
        """
        paths, meta = FeaturePaths.of(wav), read_meta(wav)
        for part in MEL_PARTS:
            if not getattr(paths, part).is_file():
                raise MissingFileError(f"{getattr(paths, part)} is not there; {_MEL_ADVICE}")
        if meta is not None:
            if not same_recording(wav, meta.get("wav")):
                raise DatasetError(f"{wav} has changed since its mels were made; {_MEL_ADVICE}")
            self._check_made(wav, meta, *MEL_PARTS)
        mel, augmented, volume = load_mels(wav, bands=self.settings.n_mels)
        return ClipMels(
            mel=torch.from_numpy(mel),
            aug_mel=torch.from_numpy(augmented[:, :-1].copy()),
            aug_volume=torch.from_numpy(volume),
            key_shift=float(augmented[0, -1]),
        )

    def _check_recording(self, wav: Path, meta: Mapping[str, Any]) -> None:
        if not wav.is_file():
            raise MissingFileError(f"{wav} is not there; run  svc preprocess")
        if not same_recording(wav, meta.get("wav")):
            raise DatasetError(f"{wav} has changed since its features were made; {_ADVICE}")

    def _check_made(self, wav: Path, meta: Mapping[str, Any], *parts: str) -> None:
        mismatch = self.settings.mismatch(meta, parts)
        if mismatch is not None:
            advice = _MEL_ADVICE if mismatch.startswith("mels") else _ADVICE
            raise DatasetError(f"{wav}: its {mismatch}; {advice}")


def _save_array(array: np.ndarray, path: Path) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(array, dtype=np.float32), allow_pickle=False)
