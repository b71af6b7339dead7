"""Files by name: which song and which voice the user means, and what a result is called."""

from __future__ import annotations

import difflib
import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from svc.audio.formats import OUTPUT_SUFFIXES
from svc.audio.io import AUDIO_SUFFIXES, list_audio
from svc.conversion.options import InferOptions
from svc.errors import AudioError, ConfigError, MissingFileError

logger = logging.getLogger(__name__)

RUN_DIR = Path("logs/44k")
RAW_DIR = Path("raw")
OUTPUT_DIR = Path("results")
WAV_FORMATS = tuple(suffix.removeprefix(".") for suffix in OUTPUT_SUFFIXES)

MAX_NAME_BYTES = 200  # file systems allow 255; the temporary file beside the result needs some
_FORBIDDEN = re.compile(r"[/\\\x00-\x1f\x7f]+")


@dataclass(frozen=True)
class Source:
    """One input file.

    Attributes:
        name: what results are named after.
        path: where it is.
        folder: sub-folder of the results' folder that it goes to.
    """

    name: str
    path: Path
    folder: Path = Path()

    @property
    def shown(self) -> str:
        """What the user is told: the name, with the sub-folder where there is one."""
        return self.name if self.folder == Path() else str(self.folder / self.name)


def find_sources(
    name: str,
    raw_dir: Path = RAW_DIR,
    *,
    recursive: bool = False,
    leave_out: Path | None = None,
) -> list[Source]:
    """Find the files behind one name of `-n`.

    A name is looked up under `raw_dir` first, as in so-vits-svc 4.1 (spec_core 8.7), then as a path
    of its own. A name without a suffix may stand for `<name>.wav`, or for a file of any other audio
    suffix. A folder stands for the audio files in it.

    Args:
        name: a name or path.
        raw_dir: the folder of songs.
        recursive: a folder stands for the files in its sub-folders, too; results keep the sub-folders.
        leave_out: a folder whose files are no songs: that of the results, which may lie inside. Where
            it is the folder of the songs itself, files with a manifest are no songs.

    Returns:
        One source, or all those of a folder, sorted.

    Raises:
        MissingFileError: there is no such file; names like it in `raw_dir` are shown.
        AudioError: a folder without audio files, or one that may not be looked into.
    """
    if not name.strip():
        raise MissingFileError('an empty name was given with -n; give a file name, e.g. "song.wav"')
    # "." and ".." mean the folders they always mean.
    parents = (raw_dir, Path()) if name.strip("./\\") else (Path(),)
    for parent in parents:
        found = _existing_file(parent / name)
        if found is not None:
            # Under raw/ the name as given, as the original does; elsewhere the folders of a path
            # say nothing.
            given = Path(name)
            inside = parent == raw_dir and not given.is_absolute() and ".." not in given.parts
            return [Source(name if inside else found.name, found)]
    for parent in parents:
        folder = parent / name
        if _is_folder(folder):
            return _sources_in(folder, recursive=recursive, leave_out=leave_out)
    for parent in parents:
        if why := _refusal(parent / name):
            raise MissingFileError(f"cannot look for {parent / name}: {why}")
    near = difflib.get_close_matches(name, _names_in(raw_dir), n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise MissingFileError(f"no audio file {name}: it is neither in {raw_dir}/ nor a path{hint}")


def _sources_in(folder: Path, *, recursive: bool, leave_out: Path | None) -> list[Source]:
    paths = list_audio(folder, recursive=recursive)
    if leave_out is not None and leave_out.resolve() == folder.resolve():
        paths = _without_results(paths, folder)
    elif recursive and leave_out is not None:
        results = leave_out.resolve()
        paths = [path for path in paths if results not in path.resolve().parents]
    if not paths:
        deeper = "" if recursive else "; --recursive looks into its sub-folders, too"
        raise AudioError(
            f"the folder {folder} holds no audio files{deeper}; known suffixes: "
            f"{' '.join(sorted(AUDIO_SUFFIXES))}"
        )
    return [Source(path.name, path, path.relative_to(folder).parent) for path in paths]


def _without_results(paths: list[Path], folder: Path) -> list[Path]:
    """Leave out what earlier runs have put beside the songs: it would be sung again, twice as much every
    time.
    """
    from svc.conversion.manifest import is_result  # what it reads on its way is not for every start

    songs = [path for path in paths if not is_result(path)]
    if len(songs) < len(paths):
        text = "%s holds songs and results: %d with a manifest left out"
        logger.warning(text, folder, len(paths) - len(songs))
    return songs


def _existing_file(path: Path) -> Path | None:
    try:
        if path.is_file():
            return path
        if path.suffix.lower() in AUDIO_SUFFIXES:
            return None
        for suffix in (".wav", *sorted(AUDIO_SUFFIXES - {".wav"})):
            candidate = path.with_name(path.name + suffix)
            if candidate.is_file():
                return candidate
    except (OSError, ValueError):  # too long for the file system, a NUL inside, no permission
        return None
    return None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _refusal(path: Path) -> str:
    """Say why the system does not even tell whether there is such a file; "" = it is not there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return ""
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _names_in(folder: Path) -> list[str]:
    try:
        return [path.name for path in list_audio(folder)]
    except (AudioError, MissingFileError):
        return []


def find_model(
    model_path: str | Path | None, config_path: str | Path | None, run_dir: Path = RUN_DIR
) -> tuple[Path, Path]:
    """Find a voice, where `svc train` leaves it if nothing is given.

    Args:
        model_path: a checkpoint; None = the one with the highest step in `run_dir`.
        config_path: its config; None = `config.json` beside it.
        run_dir: folder of the default voice.

    Returns:
        Checkpoint and config, both existing files.

    Raises:
        MissingFileError: one of them is not there; says what to give.
    """
    if model_path is None:
        from svc.checkpoint import find_latest  # torch: exported voices do without

        latest = find_latest(run_dir, "G")
        if latest is None:
            raise MissingFileError(
                f"no checkpoint G_*.pth in {run_dir}: train a voice with  svc train, "
                "or name one with -m"
            )
        model = latest
    else:
        model = Path(model_path)
        if not model.is_file():
            raise MissingFileError(f"the model {model} is not there; check -m")
    config = model.parent / "config.json" if config_path is None else Path(config_path)
    if not config.is_file():
        hint = "check -c" if config_path is not None else "name the config of this model with -c"
        raise MissingFileError(f"the config {config} is not there; {hint}")
    return model, config


def wav_format(text: str) -> str:
    """Return the output format meant by `-wf`: one of `WAV_FORMATS`. Raises ConfigError."""
    name = text.strip().lower().removeprefix(".")
    if name not in WAV_FORMATS:
        raise ConfigError(f'-wf/--wav_format "{text}" is unknown: choose {", ".join(WAV_FORMATS)}')
    return name


def result_name(
    source: str, speaker: str, options: InferOptions, f0_name: str, suffix: str, *, copy: int = 1
) -> str:
    """Name a result as so-vits-svc 4.1 does: ``song.wav_0key_alice_sovits_pm.flac``.

    See spec_core 8.7; the parts are input, transposition, voice and the share of its own timbre
    (``alice_0.5``), mode, F0 predictor, format.

    Args:
        source: name of the input, with its suffix.
        speaker: name of the voice.
        options: transposition, or that the melody is predicted.
        f0_name: the F0 predictor.
        suffix: output format without a dot.
        copy: 2, 3, ... tell inputs of the same name in different folders apart.

    Returns:
        A name of at most 200 bytes without path separators; a name that is too long keeps its end
        and gets a checksum.
    """
    key = "auto" if options.auto_f0 else f"{options.transpose:g}key"
    clean = _FORBIDDEN.sub("_", source)
    number = f"({copy})" if copy > 1 else ""
    voice = _FORBIDDEN.sub("_", speaker)
    if options.cluster_ratio > 0:
        voice = _shorten(voice, MAX_NAME_BYTES // 4) + f"_{options.cluster_ratio:g}"
    ending = f"_{options.mode}_{_FORBIDDEN.sub('_', f0_name.replace(':', '_'))}.{suffix}"
    voice = _shorten(voice, MAX_NAME_BYTES // 3)
    tail = f"{number}_{key}_{voice}{ending}"
    return _shorten(clean, MAX_NAME_BYTES - len(tail.encode())) + tail


def _shorten(text: str, n_bytes: int) -> str:
    """Cut a text to `n_bytes` of UTF-8; a checksum keeps texts with the same start apart."""
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) <= n_bytes:
        return text
    mark = "~" + hashlib.sha256(raw).hexdigest()[:8]
    return raw[: n_bytes - len(mark)].decode("utf-8", "ignore") + mark
