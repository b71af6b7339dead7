"""A predictor that knows the waves it has heard, so that nothing is listened to twice."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from svc.audio.pitch import F0Track
from svc.f0.base import F0Predictor
from svc.f0.wave import F0Wave

_LONGEST_FRAMES = 500_000  # in memory, 6 MB: more than an hour and a half


class RememberingPredictor:
    """Another predictor's tracks, each computed once as long as there is room.

    Choosing a transposition needs the pitch of the whole song before its first stretch is sung, and
    every further voice needs it again.

    Args:
        predictor: the one that listens. Its settings must not change.
    """

    def __init__(self, predictor: F0Predictor) -> None:
        self.predictor, self.name, self.settings = predictor, predictor.name, predictor.settings
        self._tracks: OrderedDict[bytes, F0Track] = OrderedDict()  # oldest first
        self._frames = 0

    def __call__(self, wav: npt.NDArray[np.float32] | F0Wave) -> F0Track:
        """Return the track of a wave (T,), T // hop_length frames. Raises AudioError for NaN."""
        key = _digest(wav)
        track = self._tracks.get(key)
        if track is None:
            track = self.predictor(wav)
        self._keep(key, track)
        return track

    def track_batch(self, wavs: Sequence[npt.NDArray[np.float32] | F0Wave]) -> list[F0Track]:
        """Return the tracks of several waves; only those not heard before are computed."""
        keys = [_digest(wav) for wav in wavs]
        new = {key: wav for key, wav in zip(keys, wavs, strict=True) if key not in self._tracks}
        heard = dict(zip(new, self.predictor.track_batch(list(new.values())), strict=True))
        tracks = [heard[key] if key in heard else self._tracks[key] for key in keys]
        for key, track in zip(keys, tracks, strict=True):
            self._keep(key, track)
        return tracks

    def _keep(self, key: bytes, track: F0Track) -> None:
        """Remember a track as the newest, and forget the oldest ones where there is no room."""
        if key not in self._tracks:
            self._tracks[key] = track
            self._frames += len(track)
        self._tracks.move_to_end(key)
        while self._frames > _LONGEST_FRAMES:
            self._frames -= len(self._tracks.popitem(last=False)[1])


def _digest(wav: npt.NDArray[np.float32] | F0Wave) -> bytes:
    samples = wav.samples if isinstance(wav, F0Wave) else np.ascontiguousarray(wav)
    start = f"{samples.dtype} {samples.shape} ".encode()
    return hashlib.blake2b(start + samples.tobytes(), digest_size=16).digest()
