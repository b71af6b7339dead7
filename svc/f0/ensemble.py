"""ensemble: several predictors look at the same wave, and what they agree on is the pitch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from svc.audio.pitch import F0Track
from svc.f0.consensus import agree
from svc.f0.settings import F0Settings
from svc.f0.wave import F0Wave
from svc.threads import cpu_threads

Wave = npt.NDArray[np.float32] | F0Wave
Array = npt.NDArray[np.float64]

# What a member's word counts for; 1 where it is not named. By docs/f0.md the nets err less.
_WEIGHTS = {"pm": 0.7, "dio": 0.7, "harvest": 0.7}
# Hz above which a member's silence says nothing: fcpe hears no pitch there.
_DEAF_ABOVE = {"fcpe": 1080.0}
# These say how sure they are of frames that they call unvoiced too.
_RATES_ALL = frozenset({"crepe", "crepe-tiny", "rmvpe", "fcpe", "swift"})
_KEEPS_LOCK = "pm"  # holds Python's lock while it works: no use in a thread
_LEAST = 0.05  # what the pitch of a voiced frame counts for however unsure it is


class Member(Protocol):
    """One of the predictors."""

    name: str
    settings: F0Settings

    def track_batch(self, wavs: Sequence[Wave]) -> list[F0Track]:
        """Tracks of several waves on the grid of the settings."""
        ...


class EnsemblePredictor:
    """Pitch by several predictors, which work in threads beside each other.

    A frame is voiced where the members' certainty, each weighted, says so on balance; its pitch is
    the median of the members that agree, in cents, after those an octave off have been moved
    (`svc.f0.consensus`). The confidence is the weighted share of certain members that name this
    pitch, those that name its octave counting half.

    Args:
        members: two or more predictors with the settings' rate and hop.
        settings: range, rates.
    """

    def __init__(self, members: Sequence[Member], settings: F0Settings) -> None:
        if len(members) < 2:
            raise ValueError(f"an ensemble has two or more members, not {len(members)}")
        for member in members:
            theirs = member.settings
            if (theirs.sampling_rate, theirs.hop_length) != (
                settings.sampling_rate,
                settings.hop_length,
            ):
                raise ValueError(f"{member.name} works on another grid than the ensemble")
        self.members = tuple(members)
        self.settings = settings
        self.name = f"ensemble:{'+'.join(member.name for member in members)}"

    def __call__(self, wav: Wave) -> F0Track:
        """Return the track of a wave: (T,) samples -> T // hop_length frames, with confidence.
        Raises AudioError for NaN samples.
        """
        return self.track_batch([wav])[0]

    def track_batch(self, wavs: Sequence[Wave]) -> list[F0Track]:
        """Return the tracks of several waves, each what it is alone.

        Args:
            wavs: each (T,) samples, of any lengths.

        Raises:
            AudioError: NaN or infinite samples.
        """
        waves = [F0Wave.of(wav, self.settings.sampling_rate) for wav in wavs]
        # Padded here, or each member would resample its own copy of a short wave.
        padded = [wave.prepared(self.settings) for wave in waves]
        counts = [self.settings.n_frames(wave.samples) for wave in waves]
        opinions = zip(*self._ask([wave for wave, n in zip(padded, counts) if n]), strict=True)
        empty = replace(self.settings.empty(), confidence=np.zeros(0, dtype=np.float32))
        return [self.combine(next(opinions), n) if n else empty for n in counts]

    def _ask(self, waves: Sequence[F0Wave]) -> list[list[F0Track]]:
        """Each member's tracks of all waves, in the members' order."""
        threaded = [member for member in self.members if member.name != _KEEPS_LOCK]
        # A net alone keeps as many cores busy as torch may use, pyworld only one; more threads than
        # that would stand in each other's way.
        with ThreadPoolExecutor(min(len(threaded), cpu_threads())) as pool:
            pending = {member.name: pool.submit(member.track_batch, waves) for member in threaded}
            return [
                pending[member.name].result()
                if member.name in pending
                else member.track_batch(waves)
                for member in self.members
            ]

    def combine(self, tracks: Sequence[F0Track], n_frames: int | None = None) -> F0Track:
        """Make one track of the members'.

        Args:
            tracks: in the members' order, all of one length.
            n_frames: how many of their frames to use; None for all.

        Returns:
            The track, with confidence.
        """
        settings = self.settings
        f0 = np.stack([track.f0[:n_frames] for track in tracks]).astype(np.float64)
        voiced = np.stack([track.uv[:n_frames] for track in tracks]) > 0
        sure = np.stack(
            [
                certainty(track, member)[:n_frames]
                for track, member in zip(tracks, self.members, strict=True)
            ]
        )
        weights = np.array([[_WEIGHTS.get(member.name, 1.0)] for member in self.members])
        cents = 1200 * np.log2(np.where(voiced, f0, 1.0))
        consensus = agree(
            cents,
            np.where(voiced, weights * np.maximum(2 * sure - 1, _LEAST), 0.0),
            frame_seconds=settings.frame_seconds,
            low=1200 * np.log2(settings.f0_min),
            high=1200 * np.log2(settings.f0_max),
        )
        hz = 2 ** (np.nan_to_num(consensus.cents) / 1200)
        deaf = np.array([[_DEAF_ABOVE.get(member.name, np.inf)] for member in self.members])
        weights = np.where(voiced | (hz <= deaf), weights, 0.0)
        sung = ((weights * (sure - 0.5)).sum(axis=0) > 0) & ~np.isnan(consensus.cents)
        confidence = (weights * sure * consensus.agreement).sum(axis=0) / weights.sum(axis=0)
        limited = hz.clip(settings.f0_min, settings.f0_max)
        track = settings.finish(np.where(sung, limited, 0.0), classic=False)
        return replace(track, confidence=confidence.astype(np.float32))


def certainty(track: F0Track, member: Member) -> Array:
    """How sure a member is that frames are voiced: (N,) 0..1, 0.5 and more where it calls them
    voiced.

    The confidence of the nets is stretched so that their threshold lies at 0.5. Of a member that
    says nothing of its certainty, or of unvoiced frames, a middling one is assumed.
    """
    voiced = track.uv > 0
    if track.confidence is None:
        return np.where(voiced, 0.75, 0.25)
    confidence = track.confidence.astype(np.float64)
    if member.name not in _RATES_ALL:
        return np.where(voiced, 0.5 + confidence / 2, 0.25)
    threshold = member.settings.threshold
    above = 0.5 + 0.5 * (confidence - threshold) / (1 - threshold)
    below = 0.5 * confidence / max(threshold, 1e-9)
    return np.where(voiced, above.clip(0.5, 1), below.clip(0, 0.5))
