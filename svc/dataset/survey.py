"""Whether features still belong to their recordings and to the config, for a whole list at once:
found before a training begins, told in one line.

One look at the size and time of each file is enough as long as they are what they were; where only
the time differs (a copied data set) the contents are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svc.dataset.clip_arrays import files_of, same_content
from svc.dataset.feature_paths import FeaturePaths
from svc.dataset.feature_settings import is_edited
from svc.dataset.features import read_meta
from svc.dataset.fingerprint import same_recording, same_time
from svc.dataset.old_arrays import array_shape
from svc.dataset.pack import FileState, Pack, PackedClip
from svc.dataset.store import ClipStore
from svc.errors import DatasetError

SHOWN = 3
"""Files named in one message."""
SLACK = 3  # frames by which F0 and audio may not differ any more (spec_core 6.5)

_RESAMPLE = "svc resample  and  svc preprocess  again"
_FEATURES = "svc preprocess --stage features"
_PACK = "svc preprocess --stage pack"


@dataclass(frozen=True)
class _Fault:
    """What can be wrong with a clip, for one and for many, and what helps."""

    one: str = field(compare=False)  # may hold figures of the one clip
    many: str
    command: str

    @classmethod
    def its(cls, words: str, command: str) -> _Fault:
        return cls(f": its {words}", f": their {words}", command)


_CHANGED = _Fault(
    " has changed since its features were made",
    " have changed since their features were made",
    _FEATURES,
)


@dataclass
class Survey:
    """What was found out about the clips of a list."""

    frames: list[int] = field(default_factory=list)  # of each clip
    notes: list[str] = field(default_factory=list)  # for the log
    warnings: list[str] = field(default_factory=list)  # what is unusual and allowed
    _faults: dict[_Fault, list[Path]] = field(default_factory=dict)
    _made: dict[str, Counter[str]] = field(default_factory=dict)
    _plain: int = 0  # clips without a side-car
    _compared: int = 0  # clips whose contents had to be compared

    def blame(self, fault: _Fault, path: Path) -> None:
        """Note what is wrong with a clip."""
        self._faults.setdefault(fault, []).append(path)

    def note_compared(self) -> None:
        """Note that the contents of a clip's files had to be compared."""
        self._compared += 1

    def count(self, made: Mapping[str, Any] | None, parts: Sequence[str]) -> None:
        """Note what the features of a clip were made with."""
        if made is None:
            self._plain += 1
            return
        for part, key in (("f0", "f0_predictor"), ("units", "encoder_file")):
            record = made.get(part) if part in parts else None
            if isinstance(record, Mapping) and record.get(key) and not is_edited(record):
                self._made.setdefault(part, Counter())[str(record[key])] += 1

    def raise_faults(self, listing: Path, total: int, flag: str) -> None:
        """Raise DatasetError with all that is wrong, in one line."""
        if not self._faults:
            return
        commands = {fault.command for fault in self._faults}
        best = next(name for name in (_RESAMPLE, _FEATURES, _PACK) if name in commands)
        command = best + flag if best == _FEATURES else best
        (fault, paths), *others = self._faults.items()
        if not others and len(paths) == 1:
            raise DatasetError(f"{paths[0]}{fault.one}; run  {command}")
        told = "; ".join(
            f"{len(paths)} of {total} clips ({some(paths)}){fault.many if len(paths) > 1 else fault.one}"
            for fault, paths in self._faults.items()
        )
        raise DatasetError(f"{listing}: {told}; run  {command}")

    def finish(self, listing: Path) -> None:
        """Put what was counted into notes."""
        f0, units = (self._made.get(part, Counter[str]()) for part in ("f0", "units"))
        if len(f0) > 1:
            counts = ", ".join(f"{name} {count}" for name, count in f0.most_common())
            self.warnings.append(
                f"{listing}: the F0 of its clips is by different predictors ({counts}); to make it "
                "anew with one of them run  svc preprocess --stage features --f0_predictor NAME"
            )
        if len(units) > 1:
            self.warnings.append(
                f"{listing}: the units of its clips were made with {len(units)} different weight "
                "files of the encoder; to make them anew run  svc preprocess --stage features"
            )
        if self._plain:
            self.notes.append(
                f"{listing}: {self._plain} clips have no side-car (.meta.json), as so-vits-svc 4.1 "
                "writes none: whether their features belong to them is judged by the length alone"
            )
        if self._compared:
            self.notes.append(
                f"{listing}: {self._compared} clips have files of another time than the pack says, "
                "and the same content; svc preprocess --stage pack  notes the new times, which "
                "saves comparing"
            )


def some(names: Sequence[Path | str]) -> str:
    """Return the first names of many."""
    more = len(names) - SHOWN
    return ", ".join(map(str, names[:SHOWN])) + (f" and {more} more" if more > 0 else "")


def survey(listing: Path, paths: Sequence[Path], store: ClipStore, *, flag: str = "") -> Survey:
    """Compare clips with their features, and their features with the settings of a store.

    Args:
        listing: where the paths are from, for messages.
        paths: clips; those that are not in a pack have all files.
        store: how they will be read.
        flag: what svc preprocess has to be told besides.

    Returns:
        The length of each clip in frames, and notes.

    Raises:
        DatasetError: recordings or features have changed, were made with something else than the
            config says, are of another length, or a file is damaged; counts and names clips.
    """
    found = Survey()
    for path in paths:
        place = store.packed(path)
        if place is None:
            _look_at_files(path, store, found)
        else:
            _look_into_pack(path, store, *place, found)
    found.raise_faults(listing, len(paths), flag)
    found.finish(listing)
    return found


def _look_at_files(path: Path, store: ClipStore, found: Survey) -> None:
    meta = read_meta(path)
    samples, rate = store.length(path)
    paths = FeaturePaths.of(path)
    shapes = {part: array_shape(getattr(paths, part)) for part in _frame_parts(store)}
    if _fits_grid(path, store, samples, rate, found):
        if meta is not None and not same_recording(path, meta.get("wav")):
            found.blame(_CHANGED, path)
        elif not _blame_mismatch(path, store, meta, found):
            _check_length(path, store, samples, shapes, found)
    found.count(meta, store.parts)


def _look_into_pack(
    path: Path, store: ClipStore, pack: Pack, clip: PackedClip, found: Survey
) -> None:
    if _fits_grid(path, store, clip.n_samples, clip.rate, found):
        changed = _changed_part(path, store, pack, clip, found)
        if changed == "wav":
            found.blame(_CHANGED, path)
        elif changed is not None:
            text = f"feature files were made anew after {pack.path}"
            found.blame(_Fault.its(text, _PACK), path)
        elif not _blame_mismatch(path, store, clip.made, found):
            shapes = {part: clip.arrays[part].shape for part in _frame_parts(store)}
            _check_length(path, store, clip.n_samples, shapes, found)
    found.count(clip.made, store.parts)


def _fits_grid(path: Path, store: ClipStore, samples: int, rate: int, found: Survey) -> bool:
    wanted = store.settings.sampling_rate
    found.frames.append(samples // store.settings.hop_length)
    if rate == wanted:
        return True
    words = f"{rate} Hz and the config says {wanted} Hz"
    found.blame(_Fault(f" has {words}", f" have {words}", _RESAMPLE), path)
    return False


def _blame_mismatch(path: Path, store: ClipStore, made: Any, found: Survey) -> bool:
    mismatch = None if made is None else store.settings.mismatch(made, store.parts)
    if mismatch is not None:
        found.blame(_Fault.its(mismatch, _FEATURES), path)
    return mismatch is not None


def _frame_parts(store: ClipStore) -> list[str]:
    """Parts with a value per frame. Not the augmented mel: the original keeps it in an object."""
    return [part for part in ("f0", "volume", "mel", "aug_volume") if part in store.parts]


def _check_length(
    path: Path,
    store: ClipStore,
    samples: int,
    shapes: Mapping[str, tuple[int, ...]],
    found: Survey,
) -> None:
    """Refuse features of another length, as those of another version of a recording have."""
    frames = samples // store.settings.hop_length
    for part, shape in shapes.items():
        length = 0 if not shape else shape[-1] if part == "f0" else shape[0]
        if abs(length - frames) >= SLACK:
            one = (
                f" has {frames} frames of {store.settings.hop_length} samples and {length} of "
                f"{part}: its feature files belong to another version of it; delete them"
            )
            many = " have features of another length, of other versions of them; delete those files"
            found.blame(_Fault(one, many, _FEATURES), path)
            return


def _changed_part(
    path: Path, store: ClipStore, pack: Pack, clip: PackedClip, found: Survey
) -> str | None:
    """Return a part whose file is not what was packed; a file that is gone is in the pack."""
    files, compared = files_of(path), False
    for part in ("wav", *store.parts):
        known, now = clip.files.get(part), FileState.of(files[part])
        if known is None or now is None:
            continue
        if now.size == known.size and same_time(now.mtime_ns, known.mtime_ns):
            continue
        if now.size != known.size or not same_content(path, part, pack, clip):
            return part
        compared = True
    if compared:
        found.note_compared()
    return None
