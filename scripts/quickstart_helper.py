"""What quickstart.sh cannot say in a shell; the commands are the functions of this file."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

LONG_SECONDS = 15.0  # recordings longer than this are cut into clips first


def collect(voices: Path, work: Path) -> None:
    """Copy the recordings into work/dataset_raw/<voice>/, long ones into work/long/<voice>/."""
    from svc.audio.io import audio_info, list_audio
    from svc.errors import SvcError

    loose = list_audio(voices)
    folders = {voices.resolve().name: loose} if loose else {
        entry.name: list_audio(entry, recursive=True)
        for entry in sorted(voices.iterdir())
        if entry.is_dir() and not entry.name.startswith(".")
    }  # fmt: skip
    folders = {name: files for name, files in folders.items() if files}
    stamps = [(str(p), p.stat().st_size, p.stat().st_mtime) for f in folders.values() for p in f]
    listing, text = work / "recordings.json", json.dumps(stamps, indent=0)
    if folders and listing.is_file() and listing.read_text(encoding="utf-8") == text:
        print("the recordings are those of the last time")
        return
    if not folders:
        raise SvcError(f"{voices} holds no audio file, and neither do its sub-folders")
    made = [work / name for name in ("dataset_raw", "long", "dataset", "filelists")]
    if not listing.is_file() and any(place.exists() for place in made):
        raise SvcError(
            f"{work.resolve()} holds a data set that the quickstart did not make; "
            "choose an empty folder with QUICKSTART_DIR"
        )
    listing.write_text("", encoding="utf-8")  # what follows is ours, also if it is interrupted
    for place in made:
        shutil.rmtree(place, ignore_errors=True)  # made from other recordings
    for name, files in folders.items():
        seconds = 0.0
        for number, path in enumerate(files):
            try:
                length = audio_info(path).duration_s
            except SvcError:
                length = 0.0  # svc resample says what is wrong with it
            seconds += length
            place = work / ("long" if length > LONG_SECONDS else "dataset_raw") / name
            place.mkdir(parents=True, exist_ok=True)
            target = place / path.name
            if target.exists():  # the same name in two sub-folders
                target = place / f"{path.stem}-{number}{path.suffix}"
            shutil.copyfile(path, target)
        print(f"{name}: {len(files)} recordings, {seconds / 60:.1f} min")
    listing.write_text(text, encoding="utf-8")


def speaker(recordings: Path, wanted: str) -> None:
    """Print the voice to sing with: the one asked for, or the first."""
    from svc.errors import SvcError

    entries = recordings.iterdir() if recordings.is_dir() else iter(())
    names = sorted(entry.name for entry in entries if entry.is_dir())
    if wanted and wanted not in names:
        raise SvcError(f"QUICKSTART_SPEAKER={wanted} is not among the voices: {', '.join(names)}")
    if not names:
        raise SvcError(f"{recordings} holds no voice")
    print(wanted or names[0])


def checkpoint(run: Path) -> None:
    """Print the newest generator of a run."""
    from svc.errors import SvcError

    steps = [int(p.stem[2:]) for p in run.glob("G_*.pth") if p.stem[2:].isdecimal()]
    if not any(steps):  # G_0.pth is a base model to start from
        raise SvcError(f"the training left no G_*.pth in {run}")
    print(run / f"G_{max(steps)}.pth")


def octaves(song: Path, recordings: Path) -> None:
    """Print the semitones, a multiple of 12, that bring the song nearest to the voice's pitch."""
    import numpy as np

    from svc.audio.io import list_audio
    from svc.errors import SvcError

    clips = list_audio(recordings)
    middle = [_median_f0([song]), _median_f0(clips[:: max(1, len(clips) // 12)])]
    if 0.0 in middle:
        where = song if middle[0] == 0.0 else recordings
        raise SvcError(f"no pitch found in {where}; is it somebody singing or speaking?")
    print(12 * round(float(np.log2(middle[1] / middle[0]))))


def _median_f0(paths: list[Path]) -> float:
    """Median pitch of recordings in Hz, at most 30 s of each; 0 = nothing voiced."""
    import numpy as np

    from svc.audio.io import read_audio
    from svc.audio.resample import resample
    from svc.f0 import build_f0_predictor

    predictor = build_f0_predictor("pm", sampling_rate=16000, hop_length=160)
    pieces = [np.zeros(0, np.float32)]
    for path in paths:
        wav, sr = read_audio(path)
        track = predictor(resample(wav[: 30 * sr], sr, 16000))
        pieces.append(track.f0[track.uv > 0])
    voiced = np.concatenate(pieces)
    return float(np.median(voiced)) if len(voiced) else 0.0


def summary(figures: Path) -> None:
    """Print the line of figures."""
    print(json.loads(figures.read_text(encoding="utf-8"))["summary"])


def main(argv: list[str]) -> int:
    from svc.errors import SvcError

    command, *words = argv
    try:
        if command == "collect":
            collect(Path(words[0]), Path(words[1]))
        elif command == "speaker":
            speaker(Path(words[0]), words[1])
        elif command == "checkpoint":
            checkpoint(Path(words[0]))
        elif command == "octaves":
            octaves(Path(words[0]), Path(words[1]))
        elif command == "summary":
            summary(Path(words[0]))
        else:
            raise SvcError(f"unknown command {command}")
    except SvcError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
