"""Where the feature files of a recording lie (so-vits-svc 4.1 layout, spec_core 6.4)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FeaturePaths:
    """Where the features of one recording lie."""

    units: Path
    f0: Path
    volume: Path
    spec: Path
    mel: Path
    aug_mel: Path
    aug_volume: Path
    meta: Path

    @classmethod
    def of(cls, wav: Path) -> FeaturePaths:
        """Return the paths for a recording; only the last suffix is replaced (spec_core 10, D5)."""

        def beside(ending: str) -> Path:
            return wav.with_name(wav.name + ending)

        # "a.WAV" keeps its suffix, or it would share a spectrogram with "a.wav".
        spec = wav.with_suffix(".spec.pt") if wav.suffix == ".wav" else beside(".spec.pt")
        return cls(
            units=beside(".soft.pt"),
            f0=beside(".f0.npy"),
            volume=beside(".vol.npy"),
            spec=spec,
            mel=beside(".mel.npy"),
            aug_mel=beside(".aug_mel.npy"),
            aug_volume=beside(".aug_vol.npy"),
            meta=beside(".meta.json"),
        )

    def old_spec(self, wav: Path) -> Path:
        """Return the spectrogram's path by the original's rule, which replaces every ".wav" in the
        path.
        """
        return Path(str(wav).replace(".wav", ".spec.pt"))
