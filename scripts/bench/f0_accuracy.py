"""How often each pitch predictor is right, on known truth, as Markdown tables for docs/f0.md.

    python scripts/bench/f0_accuracy.py --shared ../shared --out docs/f0.md
    python scripts/bench/f0_accuracy.py --quick

Known truth is the synthetic singer of `svc demo`, clean and with noise and reverberation, and, where
the folder is there, recordings of single notes whose names say which. Figures are mir_eval's.
rmvpe takes part only where --pretrain_dir has a real rmvpe.pt.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import numpy.typing as npt
from doc_section import write_section

from svc.audio.io import read_audio
from svc.audio.pitch import F0Track
from svc.config import SINGLE_PREDICTORS
from svc.demo.dataset import random_of
from svc.demo.melody import compose, perform
from svc.demo.singer import DEMO_HIGH, DEMO_LOW, SAMPLING_RATE, Performance, sing_contour
from svc.demo.tract import VOWELS
from svc.f0 import F0Predictor, build_f0_predictor

Samples = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

SHARED = Path(__file__).resolve().parents[3] / "shared"
HOP = 512  # samples
F0_MIN, F0_MAX = 50.0, 1300.0  # Hz; the material lies in 60-1270
NAMES = (*(name for name in SINGLE_PREDICTORS if name != "rmvpe"), "ensemble")
SNRS = (40, 20, 10)  # dB
_LOUD_DB = 20.0  # of a recorded note, frames this far below its loudest are not counted
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}


@dataclass(frozen=True)
class Clip:
    """A wave and what is true about it, on frames `HOP` apart."""

    wav: Samples  # (T,)
    sr: int  # Hz
    f0: Array  # (N,) Hz, 0 = unvoiced
    counted: Flags  # (N,) frames of which the truth is known
    unvoiced_known: bool = True  # whether frames with f0 0 are known to be unvoiced


@dataclass(frozen=True)
class Score:
    """How right a predictor is."""

    pitch: float  # share of voiced frames within 50 cents
    octave: float  # share of voiced frames right but for octaves
    voicing: float  # F1 of the voiced frames; NaN where voicing is not known


# ------------------------------------------------------------------------------------- material


def _clip(performance: Performance) -> Clip:
    f0, _ = performance.frames(HOP)
    return Clip(performance.wav, performance.sr, f0, np.ones(len(f0), np.bool_))


def _vibrato(hz: Array) -> Array:
    """±50 cents at 6 Hz on a curve in Hz, 0 where it is 0."""
    time = np.arange(len(hz)) / SAMPLING_RATE
    return hz * 2 ** (50 / 1200 * np.sin(2 * np.pi * 6 * time))


def notes(seed: int, *, step: int = 2, seconds: float = 0.7) -> list[Clip]:
    """Vowels with vibrato from 60 to 1200 Hz, apart from each other, and legato octave leaps."""
    rng = random_of(seed, "notes")
    clips = []
    for voice, low, high in ((DEMO_LOW, 60.0, 300.0), (DEMO_HIGH, 300.0, 1200.0)):
        count = round(12 * np.log2(high / low)) // step
        ladder = low * (high / low) ** (np.arange(count + 1) / count)
        for vowel, part in zip(VOWELS, np.array_split(rng.permutation(ladder), len(VOWELS))):
            sung, rest = np.ones(round(seconds * SAMPLING_RATE)), np.zeros(SAMPLING_RATE // 5)
            curve = np.concatenate([rest, *(np.append(hz * sung, rest) for hz in part)])
            clips.append(_clip(sing_contour(_vibrato(curve), voice=voice, vowel=vowel, rng=rng)))
        leaps = np.repeat(low * np.array([1, 2, 4, 2, 1, 2, 1]), SAMPLING_RATE // 3)
        clips.append(_clip(sing_contour(leaps, voice=voice, rng=rng)))
    return clips


def glides(seed: int, *, seconds: float = 3.0) -> list[Clip]:
    """Up and down two octaves, in some seconds and in a quarter of one."""
    rng = random_of(seed, "glides")
    clips = []
    for voice, low, high in ((DEMO_LOW, 60.0, 240.0), (DEMO_HIGH, 300.0, 1200.0)):
        for vowel, length in (("a", seconds), ("u", seconds), ("i", seconds), ("o", 0.25)):
            rise = low * (high / low) ** np.linspace(0, 1, round(length * SAMPLING_RATE))
            hold = np.full(SAMPLING_RATE // 5, high)
            curve = np.concatenate([rise, hold, rise[::-1], np.zeros(SAMPLING_RATE // 5)])
            clips.append(_clip(sing_contour(curve, voice=voice, vowel=vowel, rng=rng)))
    return clips


def songs(seed: int, *, seconds: float = 12.0) -> list[Clip]:
    """Melodies with consonants, breaths and rests: where voicing is hard."""
    clips = []
    for voice in (DEMO_LOW, DEMO_HIGH):
        rng = random_of(seed, "song", voice.name)
        clips.append(_clip(perform(compose(voice, seconds, rng, phrases=3), voice, rng)))
    return clips


def with_noise(clip: Clip, snr_db: float, rng: np.random.Generator) -> Clip:
    """Add white noise below the power of the voiced frames."""
    voiced = np.repeat(clip.f0 > 0, HOP)
    power = float(np.mean(np.square(clip.wav[: len(voiced)][voiced], dtype=np.float64)))
    noise = rng.standard_normal(len(clip.wav)) * np.sqrt(power / 10 ** (snr_db / 10))
    return replace(clip, wav=(clip.wav + noise).astype(np.float32))


def with_reverb(clip: Clip, rng: np.random.Generator, *, rt60: float = 0.8) -> Clip:
    """Add the sound of a room, 6 dB below the voice: noise that decays by 60 dB in `rt60` s."""
    from scipy.signal import fftconvolve

    time = np.arange(round(rt60 * clip.sr)) / clip.sr
    room = rng.standard_normal(len(time)) * 10 ** (-3 * time / rt60)
    room[: round(0.01 * clip.sr)] = 0  # the first reflection comes later
    room *= 10 ** (-6 / 20) / np.sqrt(np.sum(np.square(room)))
    room[0] = 1.0
    wet = fftconvolve(clip.wav.astype(np.float64), room)[: len(clip.wav)]
    return replace(clip, wav=(wet * min(1.0, 0.95 / np.abs(wet).max())).astype(np.float32))


def synthetic(seed: int, *, quick: bool = False) -> dict[str, list[Clip]]:
    """Every condition of the synthetic singer."""
    if quick:
        clean = {
            "notes": notes(seed, step=6, seconds=0.5),
            "glides": glides(seed, seconds=1.0)[::3],
            "songs": songs(seed, seconds=6.0),
        }
    else:
        clean = {"notes": notes(seed), "glides": glides(seed), "songs": songs(seed)}
    everything = [clip for clips in clean.values() for clip in clips]
    rng = random_of(seed, "conditions")
    noisy = {f"{snr} dB": [with_noise(c, snr, rng) for c in everything] for snr in SNRS}
    return {**clean, **noisy, "reverb": [with_reverb(c, rng) for c in everything]}


def recorded_notes(shared: Path) -> dict[str, list[Clip]]:
    """Sung notes of known pitch: solfege syllables named by MIDI number, and vowels by note name.

    The other singers of the folder come without notes. Takes that their names call bent or unstable
    are left out.
    """
    folder = shared / "audio" / "singing"
    found: dict[str, list[Clip]] = {"chengu": [], "martin": []}
    for path in sorted((folder / "chengu").glob("note*.flac")):
        found["chengu"].append(_recorded(path, int(path.name[4:7])))
    for path in sorted((folder / "martin").glob("note_*.flac")):
        match = re.fullmatch(r"note_([A-G])(s?)(\d)(-\d)?\.flac", path.name)
        if match:
            # This set counts octaves from A: its A3 is the A below its C3.
            octave = int(match[3]) - (match[1] in "AB")
            midi = 12 * (octave + 1) + _STEPS[match[1]] + bool(match[2])
            found["martin"].append(_recorded(path, midi))
    return {name: clips for name, clips in found.items() if clips}


def _recorded(path: Path, midi: int) -> Clip:
    wav, sr = read_audio(path)
    n_frames = len(wav) // HOP
    power = np.square(wav[: n_frames * HOP], dtype=np.float64).reshape(n_frames, HOP).mean(axis=1)
    loud = power >= power.max() * 10 ** (-_LOUD_DB / 10)
    f0 = np.full(n_frames, 440.0 * 2 ** ((midi - 69) / 12))
    return Clip(wav, sr, f0, loud, unvoiced_known=False)


# -------------------------------------------------------------------------------------- figures


def score(clips: Sequence[Clip], tracks: Sequence[F0Track]) -> Score:
    """Compare tracks with the truth; a voiced frame that is called unvoiced counts as wrong."""
    from mir_eval import melody

    truth = np.concatenate([clip.f0[clip.counted] for clip in clips])
    found = np.concatenate(
        [(track.f0 * track.uv)[clip.counted] for clip, track in zip(clips, tracks, strict=True)]
    ).astype(np.float64)
    (true_cents, true_voicing), (cents, voicing) = (
        (melody.hz2cents(hz), (hz > 0).astype(np.float64)) for hz in (truth, found)
    )
    pitch = melody.raw_pitch_accuracy(true_voicing, true_cents, voicing, cents)
    chroma = melody.raw_chroma_accuracy(true_voicing, true_cents, voicing, cents)
    f1 = float("nan")
    if all(clip.unvoiced_known for clip in clips):
        recall, false_alarm = melody.voicing_measures(true_voicing, voicing)
        hits, false = recall * true_voicing.sum(), false_alarm * (1 - true_voicing).sum()
        f1 = 2 * hits / (true_voicing.sum() + hits + false)
    return Score(float(pitch), float(chroma - pitch), float(f1))


def measure(
    names: Sequence[str],
    conditions: Mapping[str, Sequence[Clip]],
    *,
    device: str = "cpu",
    pretrain_dir: Path = Path("pretrain"),
) -> dict[str, dict[str, Score]]:
    """Score every predictor under every condition."""
    scores: dict[str, dict[str, Score]] = {}
    for name in names:
        built: dict[int, F0Predictor] = {}
        scores[name] = {}
        for condition, clips in conditions.items():
            print(f"{name}: {condition}", file=sys.stderr, flush=True)
            for sr in {clip.sr for clip in clips} - set(built):
                built[sr] = build_f0_predictor(
                    name,
                    sampling_rate=sr,
                    hop_length=HOP,
                    f0_min=F0_MIN,
                    f0_max=F0_MAX,
                    device=device,
                    pretrain_dir=pretrain_dir,
                )
            tracks = [built[clip.sr](clip.wav) for clip in clips]
            scores[name][condition] = score(clips, tracks)
    return scores


def tables(scores: Mapping[str, Mapping[str, Score]]) -> str:
    """Three tables: a row per predictor, a column per condition."""
    lines = []
    for title, field, scale, digits in (
        ("Raw pitch accuracy: voiced frames within 50 cents, %", "pitch", 100, 1),
        ("Octave errors: voiced frames off by whole octaves, %", "octave", 100, 1),
        ("Voicing F1", "voicing", 1, 3),
    ):
        columns = [
            condition
            for condition in next(iter(scores.values()))
            if not all(np.isnan(getattr(row[condition], field)) for row in scores.values())
        ]
        lines += [f"{title}:", "", f"| predictor | {' | '.join(columns)} |"]
        lines += ["| --- |" + " ---: |" * len(columns)]
        for name, row in scores.items():
            cells = [f"{scale * getattr(row[column], field):.{digits}f}" for column in columns]
            lines += [f"| {name} | {' | '.join(cells)} |"]
        lines += [""]
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------- main


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--predictors", nargs="+", metavar="ID", help=f"default: {', '.join(NAMES)}"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the synthetic singer (default: 1)")
    parser.add_argument("--device", default="cpu", help="of the nets (default: cpu)")
    parser.add_argument("--pretrain_dir", type=Path, default=Path("pretrain"), help="for rmvpe.pt")
    parser.add_argument(
        "--shared",
        type=Path,
        default=Path(os.environ.get("SVC_SHARED", SHARED)),
        help="folder with audio/singing; without it the singer alone",
    )
    parser.add_argument("--quick", action="store_true", help="little of everything")
    parser.add_argument("--out", type=Path, help='write the section "accuracy" of this document')
    args = parser.parse_args(arguments)
    names = args.predictors or list(NAMES)
    if args.predictors is None and (args.pretrain_dir / "rmvpe.pt").is_file():
        names.append("rmvpe")
    conditions = synthetic(args.seed, quick=args.quick)
    if not args.quick:
        conditions |= recorded_notes(args.shared)
    text = tables(measure(names, conditions, device=args.device, pretrain_dir=args.pretrain_dir))
    print(text)
    if args.out:
        write_section(args.out, "accuracy", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
