"""What the features of a recording depend on, apart from the recording: it decides whether files
that are there can be kept.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from svc.audio.mel import MelConfig

PartSettings = dict[str, str | int | float | None]

AUGMENTED = ("aug_mel", "aug_volume")
"""The two parts of one augmentation: neither is of use beside another one's partner."""
MEL_PARTS = ("mel", *AUGMENTED)
"""What only the diffusion model is trained on."""


@dataclass(frozen=True)
class FeatureSettings:
    """What the features of a recording depend on, apart from the recording."""

    speech_encoder: str
    sampling_rate: int  # Hz
    hop_length: int  # samples
    filter_length: int = 2048  # n_fft of the spectrogram
    win_length: int = 2048  # samples
    encoder_file: str | None = None  # hash of the encoder's weights
    own_weights: bool = False  # the user's, not those at the encoder's default place
    encoder_precision: str = "fp32"  # of the encoder's matrix products
    f0_predictor: str = "fcpe"
    f0_min: float = 50.0  # Hz
    f0_max: float = 1100.0  # Hz
    keep_edited: bool = True  # an F0 that a person has edited is never out of date
    mel: MelConfig | None = None  # of the vocoder; None = mels that are there are of no interest
    aug_seed: int = 1234  # of the augmentations

    def of(self, part: str) -> PartSettings:
        """Return the settings one part depends on, as they stand in the side-car."""
        frames: PartSettings = {
            "sampling_rate": self.sampling_rate,
            "hop_length": self.hop_length,
        }
        if part == "units":
            # Units depend on the recording's rate only through resampling to 16 kHz, which the
            # file's own hash covers.
            units: PartSettings = {
                "speech_encoder": self.speech_encoder,
                "encoder_file": self.encoder_file,
            }
            if self.encoder_precision != "fp32":
                units["encoder_precision"] = self.encoder_precision
            return units
        if part == "f0":
            return {
                "f0_predictor": self.f0_predictor,
                "f0_min": self.f0_min,
                "f0_max": self.f0_max,
                **frames,
            }
        if part == "spec":
            return {"filter_length": self.filter_length, "win_length": self.win_length, **frames}
        if part in MEL_PARTS:
            return {**self._mel, "seed": self.aug_seed} if part in AUGMENTED else self._mel
        return frames

    @property
    def n_mels(self) -> int:
        """Mel bands."""
        return 0 if self.mel is None else self.mel.n_mels

    @property
    def _mel(self) -> PartSettings:
        if self.mel is None:
            raise ValueError("these settings say nothing of mels")
        top = self.mel.sampling_rate / 2 if self.mel.fmax is None else self.mel.fmax
        return {
            "sampling_rate": self.mel.sampling_rate,
            "hop_length": self.mel.hop_length,
            "n_fft": self.mel.n_fft,
            "win_length": self.mel.win_length,
            "n_mels": self.mel.n_mels,
            "fmin": float(self.mel.fmin),
            "fmax": float(top),
        }

    def fits(self, part: str, recorded: Any) -> bool:
        """Return whether a part was made with these settings, by what the side-car says of it."""
        if part == "f0" and is_edited(recorded) and self.keep_edited:
            frames = self.of("volume")
            return all(recorded.get(key) == frames[key] for key in frames)
        if part in MEL_PARTS and self.mel is None:
            return isinstance(recorded, Mapping)
        wanted = self.of(part)
        known = isinstance(recorded, Mapping) and recorded.get("encoder_file") is not None
        if part == "units" and not known and not self.own_weights:
            # Side-cars of the first release have no hash where the default weights were used.
            wanted["encoder_file"] = None
        return bool(recorded == wanted)

    def mismatch(self, made: Mapping[str, Any], parts: Collection[str]) -> str | None:
        """Say which features of a clip were made otherwise than these settings ask for.

        Which predictor made the F0, and which file the encoder's weights are from, is of no
        interest to a reader.

        Args:
            made: records of the side-car by part; what it says nothing about is taken.
            parts: what is wanted of the clip.

        Returns:
            Words that go on after "its" or "their"; None where everything fits.
        """
        units, wanted = made.get("units"), self.speech_encoder
        if "units" in parts and isinstance(units, Mapping):
            encoder = units.get("speech_encoder")
            if encoder != wanted:
                return f'units were made with "{encoder}", the config says "{wanted}"'
        f0, frames = made.get("f0") if "f0" in parts else None, self.of("volume")
        if isinstance(f0, Mapping) and any(f0.get(key) != frames[key] for key in frames):
            return (
                f"features are for {f0.get('sampling_rate')} Hz and hop {f0.get('hop_length')}, the "
                f"config says {self.sampling_rate} Hz and {self.hop_length}"
            )
        for part in MEL_PARTS:
            if part in parts and not self.same_mels(made.get(part)):
                why = "for another vocoder" if part in made else "of something older"
                return f"mels were made {why}"
        return None

    def same_mels(self, recorded: Any) -> bool:
        """Return whether mels were measured like this, whatever the seed of their augmentation."""
        return isinstance(recorded, Mapping) and all(
            recorded.get(key) == value for key, value in self._mel.items()
        )


def is_edited(record: Any) -> bool:
    """Return whether the side-car's record of an F0 says that a person has edited it."""
    return isinstance(record, Mapping) and record.get("edited") is True
