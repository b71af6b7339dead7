"""Write the bundled demonstration: recordings of two synthetic singers and a song to convert."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svc.atomic import write_text
from svc.audio.io import write_audio
from svc.demo.melody import compose, perform
from svc.demo.singer import DEMO_HIGH, DEMO_LOW, SAMPLING_RATE, VOICES, Performance, Voice
from svc.errors import OutputError
from svc.progress import Progress, silent

CLIP_SECONDS = (3.0, 6.0)  # shortest and longest clip
SONG_SECONDS = 12.5
TRUTH_HOP = 256  # samples between the rows of the song's F0 file: two per frame of the models
# The song stays within what demo_low can sing an octave lower.
SONG_RANGE = (DEMO_HIGH.range_midi[0], DEMO_LOW.range_midi[1] + 12)
TRANSPOSE = -12  # semitones that bring the song into the range of demo_low


@dataclass(frozen=True)
class DemoFiles:
    """What was written.

    Attributes:
        clips: speaker name -> its wav files.
        song: the song, sung by `source`; not part of the clips.
        truth: CSV beside it with the columns time_s, f0_hz (0 = unvoiced).
        source: who sings the song.
        target: whose voice it is meant to be converted to.
        transpose: semitones that suit the target.
    """

    clips: dict[str, list[Path]]
    song: Path
    truth: Path
    source: str = DEMO_HIGH.name
    target: str = DEMO_LOW.name
    transpose: int = TRANSPOSE


def random_of(seed: int, *names: object) -> np.random.Generator:
    """Return a generator that depends on nothing but the seed and the names."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


def sing_clip(voice: Voice, index: int, seconds: float, *, seed: int) -> Performance:
    """Sing one training clip; the same arguments give the same samples."""
    rng = random_of(seed, voice.name, index)
    return perform(compose(voice, seconds, rng), voice, rng)


def sing_song(*, seed: int, voice: Voice = DEMO_HIGH, seconds: float = SONG_SECONDS) -> Performance:
    """Sing the held-out song: three phrases with rests."""
    rng = random_of(seed, "song")
    return perform(compose(voice, seconds, rng, phrases=3, range_midi=SONG_RANGE), voice, rng)


def clip_lengths(voice: Voice, minutes: float, *, seed: int) -> list[float]:
    """Lengths of a voice's clips, seconds: 3 to 6 each, about `minutes` together, at least four."""
    rng = random_of(seed, voice.name, "lengths")
    lengths: list[float] = []
    while sum(lengths) < 60.0 * minutes - 1.5 or len(lengths) < 4:
        lengths.append(round(float(rng.uniform(*CLIP_SECONDS)), 2))
    return lengths


def write_demo(
    folder: str | Path, *, seed: int = 0, minutes: float = 1.0, progress: Progress | None = None
) -> DemoFiles:
    """Write the demonstration data.

    Args:
        folder: gets ``dataset_raw/<singer>/*.wav``, ``song.wav`` (44.1 kHz, 16-bit) and
            ``song_f0.csv``.
        seed: another seed gives other melodies of the same two singers.
        minutes: of recordings per singer, 0.1 to 60.
        progress: called after each file.

    Returns:
        The paths.

    Raises:
        OutputError: a file cannot be written, or the folder holds other recordings.
        ValueError: `minutes` or `seed` out of range.
    """
    if not 0.1 <= minutes <= 60:
        raise ValueError(f"minutes must be between 0.1 and 60, not {minutes}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    root = Path(folder)
    report = progress or silent
    jobs = [
        (voice, index, seconds, root / "dataset_raw" / voice.name / f"{voice.name}_{index:03d}.wav")
        for voice in VOICES
        for index, seconds in enumerate(clip_lengths(voice, minutes, seed=seed))
    ]
    _refuse_strangers(root / "dataset_raw", [path for *_, path in jobs])
    clips: dict[str, list[Path]] = {voice.name: [] for voice in VOICES}
    for done, (voice, index, seconds, path) in enumerate(jobs, start=1):
        write_audio(path, sing_clip(voice, index, seconds, seed=seed).wav, SAMPLING_RATE)
        clips[voice.name].append(path)
        report(done, len(jobs) + 1, path.name)
    song = sing_song(seed=seed)
    files = DemoFiles(clips, root / "song.wav", root / "song_f0.csv")
    write_audio(files.song, song.wav, SAMPLING_RATE)
    write_text(files.truth, truth_csv(song, TRUTH_HOP))
    report(len(jobs) + 1, len(jobs) + 1, files.song.name)
    return files


def truth_csv(performance: Performance, hop_length: int) -> str:
    """Return the true F0 as CSV: time_s, f0_hz (0 = unvoiced); a row per `hop_length` samples."""
    f0, _ = performance.frames(hop_length)
    rows = [f"{i * hop_length / performance.sr:.6f},{value:.3f}" for i, value in enumerate(f0)]
    return "\n".join(["time_s,f0_hz", *rows]) + "\n"


def _refuse_strangers(folder: Path, ours: list[Path]) -> None:
    """Raise where the demo would end up in one data set with somebody's own recordings."""
    if not folder.is_dir():
        return
    names = {path.parent.name for path in ours}
    strangers = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in names
    )
    if strangers:
        raise OutputError(
            f"{folder} already holds other voices ({', '.join(strangers[:5])}); "
            "choose an empty folder for the demonstration"
        )
    # Clips of an earlier run with more minutes or another seed would stay in the data set.
    for name in sorted(names):
        for path in sorted((folder / name).glob(f"{name}_*.wav")):
            if path not in ours:
                path.unlink()
