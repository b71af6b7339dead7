"""Measuring which pitches the voices of a data set sing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from svc.audio.io import AUDIO_SUFFIXES, list_audio, read_audio
from svc.audio.pitch import F0Track
from svc.audio.resample import resample
from svc.checkpoint import find_latest
from svc.dataset.features import load_f0
from svc.dataset.filelist import scan_speakers
from svc.dataset.store import ClipStore
from svc.devices import resolve_device
from svc.errors import AudioError, ConfigError, DatasetError, MissingFileError
from svc.f0 import F0Predictor, build_f0_predictor
from svc.f0.range_files import own_ranges, read_ranges, write_ranges
from svc.f0.voice_range import Pitches, VoiceRange, note_hz
from svc.progress import Progress, silent

RATE, HOP = 44100, 512  # Hz and samples, of recordings that no config belongs to
_PART_SECONDS = 30  # recordings of hours are listened to in parts


def ranges_of_clips(
    paths: Sequence[Path], frame_seconds: float, store: ClipStore | None = None
) -> dict[str, VoiceRange]:
    """Measure the voices of a file list by the F0 features of its clips.

    Args:
        paths: clips; the name of the folder is the speaker.
        frame_seconds: time between frames.
        store: reads the clips; None = from their files, whatever they were made with.

    Returns:
        Speaker -> range; those in whose clips nothing is voiced are left out.

    Raises:
        SvcError: an F0 file is absent or damaged.
    """
    by_speaker: dict[str, list[Path]] = {}
    for path in paths:
        by_speaker.setdefault(path.parent.name, []).append(path)
    read = load_f0 if store is None else store.f0
    measured = {
        speaker: VoiceRange.of(Pitches.of((read(clip) for clip in clips), frame_seconds))
        for speaker, clips in by_speaker.items()
    }
    return {speaker: voice for speaker, voice in measured.items() if voice is not None}


def recordings_of(inputs: Sequence[Path], speaker: str | None) -> dict[str, list[Path]]:
    """Find the recordings of one or several voices.

    Args:
        inputs: for one voice files, and folders searched to the bottom; for several folders with
            one sub-folder of recordings per voice, like dataset/44k.
        speaker: name of the one voice; None = the sub-folders name them.

    Returns:
        Speaker -> recordings, at least one.

    Raises:
        MissingFileError: no such file or folder.
        DatasetError: no recordings there, or none in sub-folders; says what to do.
    """
    found: dict[str, list[Path]] = {}
    for path in inputs:
        if not path.exists():
            raise MissingFileError(f"{path} is not there; give recordings of the voice")
        if speaker is not None:
            files = list_audio(path, recursive=True) if path.is_dir() else [path]
            if not files:
                raise DatasetError(f"the folder {path} holds no recordings")
            found.setdefault(speaker, []).extend(files)
        elif path.is_dir():
            for name, files in scan_speakers(path, AUDIO_SUFFIXES).items():
                found.setdefault(name, []).extend(files)
        else:
            raise DatasetError(f"whose voice is {path}? Name it with -s")
    return found


def ranges_of_recordings(
    files: Mapping[str, Sequence[Path]],
    *,
    f0_predictor: str = "pm",
    f0_min: float = 50.0,
    f0_max: float = 1100.0,
    device: str | None = None,
    progress: Progress | None = None,
) -> dict[str, VoiceRange]:
    """Measure voices by listening to recordings of them.

    Args:
        files: speaker -> recordings of any format and rate.
        f0_predictor: name of a predictor.
        f0_min: lowest pitch looked for, Hz.
        f0_max: highest pitch looked for, Hz.
        device: where a predictor's net computes; None = the best there is.
        progress: called after each recording.

    Returns:
        Speaker -> range, one for each given.

    Raises:
        SvcError: a recording cannot be read, an unknown predictor.
        AudioError: nothing is voiced in the recordings of a speaker.
    """
    predictor = build_f0_predictor(
        f0_predictor,
        sampling_rate=RATE,
        hop_length=HOP,
        f0_min=f0_min,
        f0_max=f0_max,
        device=resolve_device(device),
    )
    report, total = progress or silent, sum(map(len, files.values()))
    ranges, done = {}, 0
    for speaker, paths in files.items():
        tracks: list[F0Track] = []
        for path in paths:
            tracks.extend(_tracks(path, predictor))
            done += 1
            report(done, total, path.name)
        voice = VoiceRange.of(Pitches.of(tracks, HOP / RATE))
        if voice is None:
            raise AudioError(
                f'nothing is voiced in the {len(paths)} recordings of "{speaker}"; give recordings '
                "of singing or speech"
            )
        ranges[speaker] = voice
    return ranges


def range_of_notes(low: str, high: str) -> VoiceRange:
    """Return the range of a voice whose lowest and highest note, like "A2" and "E4", are known.
    Raises ConfigError.
    """
    try:
        return VoiceRange.between(note_hz(low), note_hz(high))
    except ValueError as error:
        raise ConfigError(f"--notes: {error}") from error


def add_ranges(path: Path, ranges: Mapping[str, VoiceRange]) -> list[str]:
    """Write ranges into a side-car; those of other voices in it stay.

    Args:
        path: the side-car.
        ranges: speaker -> range.

    Returns:
        Speakers for whom the newest checkpoint beside it has a range of its own, which goes before.

    Raises:
        ConfigError: the side-car is damaged.
        OutputError: it cannot be written.
    """
    write_ranges(path, {**read_ranges(path), **ranges})
    newest = find_latest(path.parent, "G")
    return [] if newest is None else [name for name in own_ranges(newest) if name in ranges]


def _tracks(path: Path, predictor: F0Predictor) -> Iterator[F0Track]:
    wav, sr = read_audio(path)
    samples = resample(wav, sr, RATE)
    step = _PART_SECONDS * RATE
    for start in range(0, len(samples), step):
        yield predictor(samples[start : start + step])
