"""What rmvpe reads of high notes, plain and with the second reading, in cents off the truth.

Needs the published weights:  python scripts/bench/rmvpe_whistle.py --pretrain pretrain
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from svc.audio.pitch import cents
from svc.demo.singer import sing_contour
from svc.errors import SvcError
from svc.f0.rmvpe import RmvpePredictor, build_rmvpe
from svc.f0.settings import F0Settings

SR, HOP, SECONDS = 44100, 512, 3
PITCHES_HZ = (200, 400, 600, 800, 900, 1000, 1040, 1100, 1200, 1400, 1600, 1800, 1900)
Pitch = npt.NDArray[np.float64]


def tones(pitch: Pitch) -> dict[str, npt.NDArray[np.float32]]:
    """The same notes whistled, whistled in noise 10 dB below, and sung."""
    whistle = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / SR)
    noise = np.random.default_rng(0).standard_normal(len(pitch))
    noisy = whistle + noise * np.std(whistle) * 10**-0.5
    sung = sing_contour(pitch, vowel="a", rng=np.random.default_rng(0)).wav
    return {
        "whistle": whistle.astype(np.float32),
        "noisy": noisy.astype(np.float32),
        "sung": sung,
    }


def row(predictor: RmvpePredictor, wav: npt.NDArray[np.float32], pitch: Pitch) -> str:
    track = predictor(wav)
    error = cents(track.f0, pitch[np.arange(len(track)) * HOP])
    voiced = track.uv > 0
    right = np.mean(voiced & (np.abs(error) < 50))
    low = np.mean(voiced & (np.abs(error + 1200) < 100))
    return f"{right:7.1%} {low:7.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pretrain", type=Path, default=Path("pretrain"), help="where rmvpe.pt is")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    settings = F0Settings(SR, HOP, f0_max=2000.0)
    try:
        plain, corrected = (
            build_rmvpe(
                settings, device=options.device, pretrain_dir=options.pretrain, high_register=on
            )
            for on in (False, True)
        )
    except SvcError as error:
        sys.exit(str(error))
    print("right: voiced and within 50 cents; low: an octave low")
    print(f"{'Hz':>5} {'sound':>8} | {'plain':>7} {'low':>7} | {'second':>7} {'low':>7}")
    time = np.arange(SECONDS * SR) / SR
    for hz in PITCHES_HZ:
        pitch = hz * 2.0 ** (50 / 1200 * np.sin(2 * np.pi * 6 * time))
        for sound, wav in tones(pitch).items():
            print(f"{hz:5} {sound:>8} | {row(plain, wav, pitch)} | {row(corrected, wav, pitch)}")


if __name__ == "__main__":
    main()
