"""Building the retrieval index of a voice: the units of every speaker's clips, read, shuffled and put into faiss
(spec_cluster_index 4).

Everything is read once to be checked before the first index is built, and again speaker by speaker, so no more than one
speaker's units are in memory. The folder of an earlier index stays as it was until all new files are written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from svc import __version__
from svc.atomic import make_folder, output_error
from svc.config import SvcConfig, check_encoder_width, load_config
from svc.config.schema import nearest
from svc.dataset.features import FeatureCache, FeaturePaths
from svc.dataset.filelist import audio_in
from svc.devices import resolve_device
from svc.errors import ConfigError, DatasetError, MissingFileError, OutputError
from svc.progress import Progress, silent
from svc.retrieval.index_build import (
    MAX_ROWS,
    N_CENTRES,
    build_index,
    n_lists_for,
    seeds_of,
    shuffled_places,
)
from svc.retrieval.index_files import (
    FOLDER_NAME,
    SIDE_CAR_NAME,
    IndexRecord,
    SpeakerRecord,
    index_name,
    read_record,
    write_index,
    write_record,
)
from svc.retrieval.kmeans_fit import KmeansOptions, fit_kmeans
from svc.retrieval.legacy_index import LEGACY_NAME, write_legacy

_ENDING = ".soft.pt"  # of a file of units
_K_MEANS_STEPS = 20  # of the progress of one speaker
_STEPS = _K_MEANS_STEPS + 3  # and training, adding, writing


@dataclass(frozen=True)
class IndexOptions:
    """Everything `svc train-index` can be told."""

    config: Path = Path("configs/config.json")
    """Lists the speakers and says which encoder made the units."""
    root_dir: Path = Path("dataset/44k")
    """One folder of clips with features per speaker."""
    output_dir: Path = Path("logs/44k")
    """The index goes to `output_dir/feature_index`."""
    speakers: tuple[str, ...] | None = None
    """Build only these; the others of an earlier index stay. None: all."""
    seed: int | None = None
    """Of shuffling and training; None: that of the config."""
    max_rows: int = MAX_ROWS
    """Rows of a speaker above which k-means centres stand for them."""
    nprobe: int = 1
    """Lists that are searched per frame unless `svc infer` is told otherwise; stored in the index."""
    device: str | None = None
    """Where k-means computes; None: the best there is. faiss computes on the CPU."""
    legacy: bool = False
    """Write `feature_and_index.pkl` of so-vits-svc 4.1 too."""

    def __post_init__(self) -> None:
        for name in ("max_rows", "nprobe"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} is {getattr(self, name)}, and must be 1 or more")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ConfigError(f"--seed is {self.seed}, and must be 0 or more")
        if self.speakers is not None and not self.speakers:
            raise ConfigError("--speakers names nobody; leave it out for all speakers")


@dataclass(frozen=True)
class IndexReport:
    """What was built."""

    folder: Path
    record: IndexRecord  # also of speakers that were kept
    built: tuple[str, ...]  # speakers
    n_bytes: int  # of all index files
    without_features: tuple[Path, ...]  # recordings
    legacy: Path | None
    outdated: Path | None  # a legacy file of an earlier index that is still there


@dataclass(frozen=True)
class _Voice:
    """A speaker's clips, and how many units each has."""

    name: str
    id: int
    clips: tuple[Path, ...]
    rows: tuple[int, ...] = ()

    @property
    def n_rows(self) -> int:
        return sum(self.rows)


class _Steps:
    """Counts progress over clips and speakers."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def step(self, what: str, count: int = 1) -> None:
        """Tell that some more steps are done."""
        self._done += count
        self._progress(self._done, self._total, what)

    def part(self, count: int, name: str) -> Progress:
        """Return a callback for work that is so many steps in all."""
        told = 0

        def show(done: int, total: int, what: str) -> None:
            nonlocal told
            now = count * done // total
            if now > told:
                self.step(f"{name}: {what}", now - told)
                told = now

        return show


def train_index(options: IndexOptions, progress: Progress = silent) -> IndexReport:
    """Build the index of every speaker of a config.

    Args:
        options: what to build of what.
        progress: called after each clip that is checked, and for each stage of each speaker.

    Returns:
        What was built and where.

    Raises:
        ConfigError: an unknown speaker, or an earlier index that does not go with the new parts.
        MissingFileError, DatasetError: features that are absent, damaged or made with another encoder.
        CheckpointError: an earlier index that is kept in part is damaged.
        DeviceError: no such device.
        OutputError: the index cannot be written.
    """
    config, device = load_config(options.config), resolve_device(options.device)
    check_encoder_width(
        config.model.speech_encoder,
        config.model.ssl_dim,
        where=str(options.config),
        advice="run  svc preprocess --speech_encoder NAME  to write a config that fits",
    )
    names = _chosen(config, options)
    folder = options.output_dir / FOLDER_NAME
    kept = _kept(config, folder, names) if options.speakers is not None else {}
    voices = [_find(options.root_dir, name, config.spk[name]) for name in names]
    with _scratch(options.output_dir) as scratch:
        steps = _Steps(progress, sum(len(voice.clips) for voice in voices) + _STEPS * len(voices))
        builder = _Builder(options, config, device, scratch, steps)
        voices = [builder.check(voice) for voice in voices]
        _check_space(options, config.model.ssl_dim, voices)
        built = {voice.name: builder.build(voice) for voice in voices}
        speakers = dict(sorted({**kept, **built}.items(), key=lambda item: item[1].id))
        record = IndexRecord(
            encoder=config.model.speech_encoder,
            dim=config.model.ssl_dim,
            svc_version=__version__,
            speakers=speakers,
        )
        _put_in_place(folder, scratch, record, built)
    files = {entry.id: folder / entry.file for entry in speakers.values()}
    legacy = options.output_dir / LEGACY_NAME
    if options.legacy:
        write_legacy(legacy, files)
    return IndexReport(
        folder=folder,
        record=record,
        built=tuple(names),
        n_bytes=sum(path.stat().st_size for path in files.values()),
        without_features=tuple(path for voice in voices for path in _lacking(options, voice)),
        legacy=legacy if options.legacy else None,
        outdated=legacy if legacy.is_file() and not options.legacy else None,
    )


def _chosen(config: SvcConfig, options: IndexOptions) -> list[str]:
    """Return the speakers to build, in the order of their ids."""
    wanted = set(config.spk) if options.speakers is None else set(options.speakers)
    for name in sorted(wanted - set(config.spk)):
        near = nearest(name, config.spk)
        advice = f'did you mean "{near}"?' if near else f"it has {', '.join(config.spk)}"
        raise ConfigError(f'--speakers: {options.config} has no speaker "{name}"; {advice}')
    return sorted(wanted, key=lambda name: config.spk[name])


def _kept(config: SvcConfig, folder: Path, names: Sequence[str]) -> dict[str, SpeakerRecord]:
    """Return the speakers of an earlier index that stay in it."""
    if not (folder / SIDE_CAR_NAME).is_file():
        return {}
    record = read_record(folder)
    kept = {name: entry for name, entry in record.speakers.items() if name not in names}
    model = config.model
    fits = (record.encoder, record.dim) == (model.speech_encoder, model.ssl_dim)
    if kept and not (fits and all(config.spk.get(name) == e.id for name, e in kept.items())):
        raise ConfigError(
            f"{folder} has {', '.join(kept)} of another encoder or config, which cannot stay beside "
            "the speakers that --speakers names; leave --speakers out, or give another --output_dir"
        )
    for entry in kept.values():
        if not (folder / entry.file).is_file():
            raise MissingFileError(
                f"{folder / entry.file} of an earlier index is not there; leave --speakers out"
            )
    return kept


def _find(root: Path, name: str, speaker_id: int) -> _Voice:
    folder = root / name
    found = sorted(path.name for path in folder.glob(f"*{_ENDING}")) if folder.is_dir() else []
    clips = tuple(folder / file.removesuffix(_ENDING) for file in found if file[0] != ".")
    if not clips:
        raise MissingFileError(
            f'{folder} has no features of the speaker "{name}"; run  svc preprocess'
        )
    return _Voice(name, speaker_id, clips)


def _lacking(options: IndexOptions, voice: _Voice) -> list[Path]:
    """Return a speaker's recordings that have no features."""
    recordings = audio_in(options.root_dir / voice.name)
    return [path for path in recordings if not FeaturePaths.of(path).units.is_file()]


@contextlib.contextmanager
def _scratch(output_dir: Path) -> Iterator[Path]:
    """Yield an empty folder on the disk of the output, so that what is in it can be renamed into place."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=".tmp-index-", dir=make_folder(output_dir)))
    except OSError as error:
        raise output_error(output_dir, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _n_centres(options: IndexOptions, voice: _Voice) -> int | None:
    """Return how many centres stand for the rows of a voice, None: the rows themselves are kept."""
    return min(N_CENTRES, options.max_rows) if voice.n_rows > options.max_rows else None


def _check_space(options: IndexOptions, dim: int, voices: Sequence[_Voice]) -> None:
    need = 0
    for voice in voices:
        rows = _n_centres(options, voice) or voice.n_rows
        need += rows * (4 * dim + 8) + n_lists_for(rows) * (4 * dim + 8) + 1000
    need *= 2 if options.legacy else 1
    free = shutil.disk_usage(options.output_dir).free
    if free < need + 1_000_000:
        raise OutputError(
            f"cannot write {options.output_dir}: the index needs {need / 1e6:.0f} MB and the disk has "
            f"{free / 1e6:.0f} MB free; free some space and run the command again"
        )


class _Builder:
    """Reads the units of one speaker after another, and builds their indexes in the scratch folder."""

    def __init__(
        self,
        options: IndexOptions,
        config: SvcConfig,
        device: torch.device,
        scratch: Path,
        steps: _Steps,
    ) -> None:
        self._options, self._scratch, self._steps = options, scratch, steps
        self._dim, self._encoder = config.model.ssl_dim, config.model.speech_encoder
        self._seed = config.train.seed if options.seed is None else options.seed
        self._device = device
        self._cache = FeatureCache.from_config(config)

    def check(self, voice: _Voice) -> _Voice:
        """Check every clip; return the voice with its rows."""
        rows = []
        for clip in voice.clips:
            units = self._units(clip)
            if not np.isfinite(units).all():
                raise DatasetError(
                    f"{FeaturePaths.of(clip).units} holds numbers that are not finite; delete it and "
                    "run  svc preprocess --stage features"
                )
            rows.append(len(units))
            self._steps.step(f"{voice.name}: checking")
        return dataclasses.replace(voice, rows=tuple(rows))

    def build(self, voice: _Voice) -> SpeakerRecord:
        """Build and write the index of a checked voice."""
        shuffle, k_means, training = seeds_of(self._seed, voice.id)

        rows = self._read(voice, shuffle)
        n_centres = _n_centres(self._options, voice)
        show = self._steps.part(_K_MEANS_STEPS, voice.name)
        if n_centres is not None:
            settings = KmeansOptions(k=n_centres, seed=k_means)
            units = torch.from_numpy(rows)
            rows = fit_kmeans(units, settings, device=self._device, progress=show).centres.numpy()
            del units
        show(1, 1, f"{len(rows)} rows")
        n_rows = len(rows)
        show = self._steps.part(2, voice.name)
        index = build_index(rows, nprobe=self._options.nprobe, seed=training, progress=show)
        del rows  # the index has its own copy
        file = index_name(voice.id)
        sha256 = write_index(index, self._scratch / file)
        self._steps.step(f"{voice.name}: written")
        return SpeakerRecord(
            id=voice.id,
            file=file,
            rows=n_rows,
            source_rows=voice.n_rows,
            reduced=n_centres is not None,
            n_ivf=n_lists_for(n_rows),
            nprobe=self._options.nprobe,
            seed=self._seed,
            sha256=sha256,
        )

    def _read(self, voice: _Voice, seed: int) -> NDArray[np.float32]:
        """Return all units of a voice in a random order, (rows, U)."""
        places = shuffled_places(voice.n_rows, seed)
        rows = np.empty((voice.n_rows, self._dim), dtype=np.float32)
        start = 0
        for clip, count in zip(voice.clips, voice.rows, strict=True):
            units = self._units(clip)
            if len(units) != count:
                raise DatasetError(
                    f"{FeaturePaths.of(clip).units} has changed meanwhile; run the command again"
                )
            rows[places[start : start + count]] = units
            start += count
        return rows

    def _units(self, clip: Path) -> NDArray[np.float32]:
        """Return the units of a clip, (frames, U)."""
        units: NDArray[np.float32] = self._cache.load(clip).units.T.numpy()
        if units.shape[1] != self._dim:
            raise DatasetError(
                f"{FeaturePaths.of(clip).units} holds units {units.shape[1]} wide, the config says "
                f'{self._dim} ("{self._encoder}"); run  svc preprocess --stage features'
            )
        return units


def _put_in_place(
    folder: Path, scratch: Path, record: IndexRecord, built: dict[str, SpeakerRecord]
) -> None:
    """Move the new files into the folder. Without a side-car it counts as none, should this be interrupted."""
    make_folder(folder)
    wanted = {entry.file for entry in record.speakers.values()}
    try:
        (folder / SIDE_CAR_NAME).unlink(missing_ok=True)
        for entry in built.values():
            os.replace(scratch / entry.file, folder / entry.file)
        for path in folder.glob("Index-*.index"):
            if path.name not in wanted:
                path.unlink()
    except OSError as error:
        raise output_error(folder, error) from error
    write_record(folder, record)
