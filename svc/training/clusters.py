"""k-means centres of the units of each speaker of a dataset (spec_cluster_index 2).

All files of units are read once to be checked before the first speaker's centres are computed, and again speaker by
speaker, so no more than one speaker's units are in memory.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svc.atomic import make_folder, output_error
from svc.audio.io import AUDIO_SUFFIXES
from svc.config import load_config
from svc.config.schema import nearest
from svc.dataset.clips import LeftOut
from svc.dataset.features import FeaturePaths
from svc.dataset.filelist import audio_in, existing_folder, unlistable
from svc.dataset.fingerprint import same_recording
from svc.dataset.tensor_files import load_tensor
from svc.devices import resolve_device
from svc.errors import ConfigError, DatasetError, OutputError
from svc.progress import Progress, silent
from svc.retrieval.kmeans_files import (
    ClusterFacts,
    SpeakerFacts,
    cluster_path,
    read_centres,
    read_facts,
    save_clusters,
)
from svc.retrieval.kmeans_fit import DEFAULT_K, KmeansOptions, fit_kmeans

_ENDING = ".soft.pt"  # of a file of units
_ADVICE = "run  svc preprocess --stage features"
_STEPS = 1000  # of the progress bar
_WRITTEN = 1.6  # bytes in the file per byte of centres: torch writes those of arrays as text


@dataclass(frozen=True)
class ClusterOptions:
    """Everything `svc train-cluster` can be told."""

    dataset: Path = Path("dataset/44k")
    """One folder of clips with features per speaker."""
    output: Path = Path("logs/44k")
    """The centres go to `output/kmeans_<k>.pt`."""
    config: Path = Path("configs/config.json")
    """Says which encoder made the units where their side-cars do not; need not be there."""
    speakers: tuple[str, ...] | None = None
    """Compute only these; the others of an earlier file stay. None: all."""
    device: str | None = None
    """``cpu``, ``cuda``, ...; None takes the best there is."""
    k: int = DEFAULT_K
    """Centres of a speaker; as many as there are different frames where these are fewer."""
    seed: int = 0
    """Of every draw; each speaker's draws begin with it."""
    batch_size: int = 4096
    """Frames after which centres move."""
    max_iter: int | None = None
    """Passes over all frames at most; None: 10, with `full` 300."""
    full: bool = False
    """Lloyd's algorithm in place of mini-batches."""

    def __post_init__(self) -> None:
        """Check what does not depend on a file."""
        if self.speakers is not None and not self.speakers:
            raise ConfigError("--speakers names nobody; leave it out for all speakers")
        _ = self.kmeans

    @property
    def kmeans(self) -> KmeansOptions:
        """How the centres are found."""
        return KmeansOptions(self.k, self.seed, self.batch_size, self.max_iter, self.full)

    @property
    def path(self) -> Path:
        """The file of centres."""
        return cluster_path(self.output, self.k)


@dataclass(frozen=True)
class ClusterReport:
    """What was computed."""

    path: Path
    facts: ClusterFacts
    """Of all speakers in the file of whom it is known."""
    built: tuple[str, ...]
    """Speakers whose centres are new."""
    kept: tuple[str, ...]
    """Speakers of an earlier file, as they were."""
    left_out: tuple[LeftOut, ...]
    """Folders, and recordings without features."""


@dataclass(frozen=True)
class _Voice:
    """A speaker's files of units, and how many frames each has."""

    name: str
    files: tuple[Path, ...]
    rows: tuple[int, ...] = ()

    @property
    def n_rows(self) -> int:
        return sum(self.rows)


def train_clusters(options: ClusterOptions, progress: Progress = silent) -> ClusterReport:
    """Compute and save the centres of every speaker of a dataset.

    Args:
        options: of what, how and where to.
        progress: called with thousandths of the work.

    Returns:
        What was computed and where it is.

    Raises:
        ConfigError: an unknown speaker, or an earlier file that does not go with the new centres.
        MissingFileError, DatasetError: features that are absent, damaged, of several encoders or out of date.
        DeviceError: no such device.
        OutputError: the file cannot be written.
    """
    device = resolve_device(options.device)
    voices, left_out = _find(options)
    reader = _Reader()
    voices = [reader.check(voice, progress) for voice in voices]
    encoder = reader.encoder or _encoder_of(options.config, reader.dim)
    kept = _kept(options, encoder, reader.dim)
    n_centres = [min(options.k, voice.n_rows) for voice in voices]
    _check_output(options.path, reader.dim * sum(n_centres))

    centres, speakers = dict(kept.centres), dict(kept.speakers)
    shares = [voice.n_rows * count for voice, count in zip(voices, n_centres, strict=True)]
    for number, voice in enumerate(voices):
        done = sum(shares[:number]), sum(shares[: number + 1]), sum(shares)
        result = fit_kmeans(
            reader.read(voice),
            options.kmeans,
            device=device,
            progress=_part_of(progress, *done, name=voice.name),
        )
        centres[voice.name] = result.centres
        speakers[voice.name] = SpeakerFacts(
            len(result.centres), voice.n_rows, result.inertia, result.spread
        )
    facts = ClusterFacts(
        encoder=encoder if not kept.centres or kept.encoder == encoder else None,
        dim=reader.dim,
        seed=options.seed,
        method="full" if options.full else "minibatch",
        speakers=dict(sorted(speakers.items())),
    )
    save_clusters(options.path, dict(sorted(centres.items())), facts)
    built = tuple(voice.name for voice in voices)
    return ClusterReport(options.path, facts, built, tuple(kept.centres), tuple(left_out))


def _part_of(progress: Progress, start: int, end: int, total: int, *, name: str) -> Progress:
    """Return a callback for the part of the work from start to end."""

    def show(done: int, whole: int, what: str) -> None:
        now = start + (end - start) * done / whole
        progress(int(_STEPS * now / total), _STEPS, f"{name}: {what}")

    return show


def _find(options: ClusterOptions) -> tuple[list[_Voice], list[LeftOut]]:
    """Find the files of units of the speakers that are asked for."""
    root = existing_folder(options.dataset)
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir())
    except OSError as error:
        raise DatasetError(f"the folder {root} cannot be read: {error.strerror}") from error
    names = [folder.name for folder in folders if not folder.name.startswith(".")]
    for name in options.speakers or ():
        if name not in names:
            near = nearest(name, names)
            advice = f'did you mean "{near}"?' if near else f"it has {', '.join(names) or 'none'}"
            raise ConfigError(f'--speakers: {root} has no folder of a speaker "{name}"; {advice}')
    voices, left_out = [], []
    for folder in folders:
        if options.speakers is not None and folder.name not in options.speakers:
            continue
        if folder.name.startswith("."):
            left_out.append(LeftOut(folder, "a hidden folder is no speaker"))
            continue
        if reason := unlistable(folder):
            raise DatasetError(f"{str(folder)!a}: {reason}")
        files = sorted(path for path in folder.glob(f"*{_ENDING}") if not path.name.startswith("."))
        recordings = audio_in(folder, AUDIO_SUFFIXES)
        if files:
            voices.append(_Voice(folder.name, tuple(files)))
            left_out += [
                LeftOut(wav, f"no features; {_ADVICE}")
                for wav in recordings
                if not FeaturePaths.of(wav).units.is_file()
            ]
        elif recordings or options.speakers is not None:
            raise DatasetError(f"{folder} has no features of the speaker; {_ADVICE}")
        else:
            left_out.append(LeftOut(folder, "neither features nor recordings are in it"))
    if not voices:
        raise DatasetError(f"no folder of a speaker with features is in {root}; {_ADVICE}")
    return voices, left_out


class _Reader:
    """Reads files of units, and watches that they are all of one encoder."""

    def __init__(self) -> None:
        self.dim = 0  # width of all units; 0: none has been read
        self.encoder: str | None = None  # that the side-cars name
        self._first = Path()  # file of that width
        self._named = Path()  # file whose side-car named it

    def check(self, voice: _Voice, progress: Progress) -> _Voice:
        """Read all units of a voice once; returns it with its frames."""
        rows = []
        for path in voice.files:
            units = self._units(path)
            if not bool(torch.isfinite(units).all()):
                raise DatasetError(
                    f"{path} holds numbers that are not finite; delete it and {_ADVICE}"
                )
            self._check_meta(path)
            rows.append(len(units))
            progress(0, _STEPS, f"{voice.name}: checking")
        return dataclasses.replace(voice, rows=tuple(rows))

    def read(self, voice: _Voice) -> Tensor:
        """Return all units of a checked voice, float32 (frames, U)."""
        rows = torch.empty(voice.n_rows, self.dim)
        start = 0
        for path, count in zip(voice.files, voice.rows, strict=True):
            units = self._units(path)
            if len(units) != count:
                raise DatasetError(f"{path} has changed meanwhile; run the command again")
            rows[start : start + count] = units
            start += count
        return rows

    def _units(self, path: Path) -> Tensor:
        units = load_tensor(path)
        if units.dim() == 3 and units.shape[0] == 1:
            units = units[0]
        if units.dim() != 2 or units.numel() == 0:
            raise DatasetError(
                f"{path}: units are (1, channels, frames), found {tuple(units.shape)}; {_ADVICE}"
            )
        if not self.dim:
            self.dim, self._first = units.shape[0], path
        if units.shape[0] != self.dim:
            raise DatasetError(
                f"{path} holds units {units.shape[0]} wide and {self._first} such {self.dim} wide: "
                f"they are of two encoders; {_ADVICE}"
            )
        return units.T

    def _check_meta(self, path: Path) -> None:
        """Compare the side-car of a clip, where it has one, with its recording and the others' encoder."""
        wav = path.with_name(path.name.removesuffix(_ENDING))
        meta = _read_json(FeaturePaths.of(wav).meta)
        if "wav" in meta and wav.is_file() and not same_recording(wav, meta["wav"]):
            raise DatasetError(f"{wav} has changed since its features were made; {_ADVICE}")
        units = meta.get("units")
        encoder = units.get("speech_encoder") if isinstance(units, Mapping) else None
        if not isinstance(encoder, str):
            return
        if self.encoder is None:
            self.encoder, self._named = encoder, path
        if encoder != self.encoder:
            raise DatasetError(
                f'{path} was made with the encoder "{encoder}" and {self._named} with '
                f'"{self.encoder}"; {_ADVICE}'
            )


def _read_json(path: Path) -> Mapping[str, Any]:
    """Return the side-car of a clip; {} where there is none of use."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _encoder_of(config: Path, dim: int) -> str | None:
    """Return the encoder that a config names, if there is one and it is of the width of the units."""
    if not config.is_file():
        return None
    model = load_config(config).model
    return model.speech_encoder if model.ssl_dim == dim else None


@dataclass(frozen=True)
class _Kept:
    """Speakers of an earlier file that stay."""

    centres: dict[str, Tensor] = field(default_factory=dict)
    speakers: dict[str, SpeakerFacts] = field(default_factory=dict)
    encoder: str | None = None


def _kept(options: ClusterOptions, encoder: str | None, dim: int) -> _Kept:
    """Return the speakers of an earlier file of that name that are not computed anew."""
    if options.speakers is None or not options.path.is_file():
        return _Kept()
    path = options.path
    facts = read_facts(path)
    centres = {
        name: tensor for name, tensor in read_centres(path).items() if name not in options.speakers
    }
    widths = {tensor.shape[1] for tensor in centres.values()}
    earlier = facts.encoder if facts else None
    if widths - {dim} or (centres and None not in (earlier, encoder) and earlier != encoder):
        raise ConfigError(
            f"{path} has centres of {', '.join(centres)} of another encoder, which cannot stay beside "
            "the speakers that --speakers names; leave --speakers out, or give another --output"
        )
    known = facts.speakers if facts else {}
    return _Kept(centres, {name: known[name] for name in centres if name in known}, earlier)


def _check_output(path: Path, numbers: int) -> None:
    """Make sure that the file can be written, before minutes of work. Raises OutputError."""
    folder = make_folder(path.parent)
    if path.is_dir():
        raise OutputError(f"cannot write {path}: a folder of that name is in the way")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise output_error(path, error) from error
    need, free = _WRITTEN * 4 * numbers, shutil.disk_usage(folder).free
    if free < need + 1_000_000:
        raise OutputError(
            f"cannot write {path}: it needs {need / 1e6:.0f} MB and the disk has {free / 1e6:.0f} MB "
            "free; free some space and run the command again"
        )
