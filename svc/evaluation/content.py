"""How much of *what is said* a content encoder keeps, measured without transcripts.

Two people read the same sentences. If the units of an encoder say what is said and not by whom, then

- a sentence of one is nearest to the same sentence of the other among everything the other read
  (`find_sentences`), and
- a single frame of one is nearest to the frame of the other at the same place of that sentence,
  among all frames of everything the other read (`find_frames`).

Clips are compared after dynamic time warping (Sakoe and Chiba, "Dynamic programming algorithm
optimization for spoken word recognition", IEEE Transactions on Acoustics, Speech, and Signal
Processing 26, 1978; its symmetric form), frames by cosine after each speaker's mean of each feature
is taken off, so that microphone, room and average spectrum of a voice do not count against either.

Letters: S frames at 50 per second, D features.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from svc.audio.io import list_audio, read_audio
from svc.audio.loudness import rms_frames
from svc.audio.resample import resample
from svc.errors import DatasetError
from svc.evaluation.frame_features import (
    HOP,
    SAMPLING_RATE,
    Features,
    FloatArray,
    mel_features,
    with_context,
)
from svc.progress import Progress, silent

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
TOLERANCE = 3  # frames, 60 ms: about one speech sound
TOP = 5
_ACTIVE_DB = 35.0  # frames further below a clip's loud ones are pauses: they are at no place
_TIE = 1e-6  # cosine distances nearer than that are the same number


@dataclass(frozen=True)
class Alignment:
    """The cheapest way through a matrix of costs.

    Attributes:
        path: (L, 2) row and column of each step, from (0, 0) to the opposite corner.
        distance: cost along the path, a diagonal step counted twice, divided by rows + columns: the
            mean cost, comparable between clips of any length.
    """

    path: IntArray
    distance: float


@dataclass(frozen=True)
class Voice:
    """What one person read.

    Attributes:
        name: for tables.
        clips: (T,) samples at 16 kHz by sentence; the same key in two voices is the same sentence.
    """

    name: str
    clips: Mapping[str, FloatArray]


@dataclass(frozen=True)
class Score:
    """How well the clips or frames of one voice are found among those of another. Shares are 0..1.

    Attributes:
        top1: share of the sentences whose nearest candidate is the same sentence.
        top5: share of those with it among the five nearest.
        reciprocal_rank: mean of 1 / rank of the same sentence.
        frames: share of the frames whose nearest frame is at the right place of the right sentence.
    """

    top1: float
    top5: float
    reciprocal_rank: float
    frames: float


@dataclass(frozen=True)
class PairScore:
    """Two voices compared in both directions, averaged.

    Attributes:
        voices: their names.
        n_sentences: sentences that both read, the queries of each direction.
        n_candidates: clips that are searched, mean of both directions.
        n_frames: query frames, both directions together.
        scores: by the name of the feature; "chance" is what a blind guess reaches.
    """

    voices: tuple[str, str]
    n_sentences: int
    n_candidates: float
    n_frames: int
    scores: Mapping[str, Score]


CHANCE = "chance"


def voice_from_folder(folder: Path, sentences: Sequence[str] | None = None) -> Voice:
    """Read a person's recordings; the file name without its suffix is the sentence.

    Args:
        folder: audio files of any rate.
        sentences: which to read, those of them that are there; None: all.

    Raises:
        DatasetError: the folder holds none of them.
        AudioError: a file cannot be read.
    """
    files = {path.stem: path for path in list_audio(folder)} if folder.is_dir() else {}
    chosen = [name for name in (sorted(files) if sentences is None else sentences) if name in files]
    if not chosen:
        raise DatasetError(
            f"{folder} holds none of the recordings asked for; give one folder per speaker whose"
            " files have the same name for the same sentence"
        )
    clips = {}
    for name in chosen:
        wav, sr = read_audio(files[name])
        clips[name] = resample(wav, sr, SAMPLING_RATE)
    return Voice(folder.name, clips)


def dtw(cost: npt.NDArray[np.floating]) -> Alignment:
    """Dynamic time warping with the symmetric steps (1, 1), (1, 0), (0, 1), the first of weight 2.

    Args:
        cost: (N, M) distances of the frames of two clips, N, M >= 1.

    Raises:
        ValueError: the matrix is empty or holds NaN or infinite costs.
    """
    if cost.ndim != 2 or not cost.size or not np.isfinite(cost).all():
        raise ValueError(f"need finite costs (N, M), got {cost.shape}")
    from librosa.sequence import dtw as librosa_dtw

    total, path = librosa_dtw(
        C=np.asarray(cost, dtype=np.float64),
        step_sizes_sigma=np.array([[1, 1], [0, 1], [1, 0]]),
        weights_mul=np.array([2.0, 1.0, 1.0]),
    )
    # The path starts with a step into the first cell, which the recursion counts once.
    whole = float(total[-1, -1]) + float(cost[0, 0])
    return Alignment(path[::-1].astype(np.int64), whole / sum(cost.shape))


def normalise(clips: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
    """Take the speaker's mean off each feature and scale each frame to length 1, so that products
    of frames are cosines.

    Args:
        clips: (S, D) by sentence, all of one speaker.
    """
    mean = np.concatenate(list(clips.values())).mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = {name: frames - mean for name, frames in clips.items()}
    return {
        name: frames / np.maximum(np.linalg.norm(frames, axis=1, keepdims=True), 1e-8)
        for name, frames in centred.items()
    }


def cosine_cost(a: FloatArray, b: FloatArray) -> FloatArray:
    """Cosine distances 0..2 of normalised frames: (N, D), (M, D) -> (N, M)."""
    return np.clip(1.0 - a @ b.T, 0.0, 2.0)  # type: ignore[no-any-return]


def find_sentences(
    distances: FloatArray, rows: Sequence[str], columns: Sequence[str]
) -> FloatArray:
    """Rank of the same sentence among all candidates, for each query that has one.

    Args:
        distances: (queries, candidates).
        rows: sentence of each query; those that are not among the candidates are left out.
        columns: sentence of each candidate.

    Returns:
        (shared sentences,) ranks from 1; of candidates equally near the middle rank.
    """
    place = {name: index for index, name in enumerate(columns)}
    ranks = []
    for query, name in enumerate(rows):
        if name in place:
            own = distances[query, place[name]]
            nearer = int((distances[query] < own).sum())
            equal = int((distances[query] == own).sum())
            ranks.append(nearer + (equal + 1) / 2)
    return np.array(ranks, dtype=np.float32)


def find_frames(
    queries: Mapping[str, FloatArray],
    candidates: Mapping[str, FloatArray],
    paths: Mapping[str, IntArray],
    active: Mapping[str, BoolArray],
    *,
    tolerance: int = TOLERANCE,
) -> tuple[FloatArray, FloatArray]:
    """Is the nearest frame at the right place?

    Args:
        queries: normalised frames (S, D) by sentence.
        candidates: the same of the other speaker; all their frames are searched.
        paths: (L, 2) alignment of query and candidate frames of each shared sentence.
        active: (S,) by sentence: the query frames that count.
        tolerance: frames before and after the aligned place that are still right.

    Returns:
        Two (frames,): 1 where the nearest frame is right (a share where several are equally near),
        and the chance of a blind guess.
    """
    pool = np.concatenate(list(candidates.values()))
    lengths = [len(frames) for frames in candidates.values()]
    starts = dict(zip(candidates, np.cumsum([0, *lengths[:-1]]), strict=True))
    hits, chances = [], []
    for name, path in paths.items():
        first, last = _aligned_range(path)
        last = np.minimum(last + tolerance, len(candidates[name]) - 1) + starts[name]
        first = np.maximum(first - tolerance, 0) + starts[name]
        wanted = np.flatnonzero(active[name][: len(first)])
        near = queries[name][wanted] @ pool.T  # cosines
        tied = near >= near.max(axis=1, keepdims=True) - _TIE
        # Counts of tied frames up to each place: those inside the range by subtraction.
        counts = np.pad(np.cumsum(tied, axis=1), ((0, 0), (1, 0)))
        row = np.arange(len(wanted))
        inside = counts[row, last[wanted] + 1] - counts[row, first[wanted]]
        hits.append(inside / counts[:, -1])
        chances.append((last[wanted] + 1 - first[wanted]) / len(pool))
    return (np.concatenate(hits).astype(np.float32), np.concatenate(chances).astype(np.float32))


def _aligned_range(path: IntArray) -> tuple[IntArray, IntArray]:
    """First and last column that the path gives each row."""
    n_rows = int(path[-1, 0]) + 1
    first = np.full(n_rows, np.iinfo(np.int64).max)
    last = np.zeros(n_rows, dtype=np.int64)
    np.minimum.at(first, path[:, 0], path[:, 1])
    np.maximum.at(last, path[:, 0], path[:, 1])
    return first, last


def active_frames(wav: FloatArray) -> BoolArray:
    """Frames at most 35 dB below a clip's loud ones: (T,) at 16 kHz -> (max(1, T // 320),)."""
    level = rms_frames(wav, 2 * HOP, HOP)[: max(1, len(wav) // HOP)]
    loud = np.percentile(level, 95)
    found: BoolArray = level > loud * 10 ** (-_ACTIVE_DB / 20)
    return found


def measure_content(
    voices: Sequence[Voice],
    features: Mapping[str, Features],
    *,
    tolerance: int = TOLERANCE,
    progress: Progress | None = None,
) -> list[PairScore]:
    """Compare encoders on parallel recordings: each pair of voices, both directions.

    All clips of a voice are candidates, those of sentences that only one of the two read as well.
    The places of frames are found by log-mel frames with 3 neighbours on either side, whatever is
    compared, so the figures of different encoders have one measure.

    Args:
        voices: two or more, with sentences in common.
        features: what to compare, by the name it has in the result, e.g.
            ``{"mine": encoder_features(encoder), **BASELINES}`` of `svc.evaluation.frame_features`.
        tolerance: see `find_frames`.
        progress: reports the clips and pairs done.

    Returns:
        One result per pair of voices, in their order.

    Raises:
        DatasetError: fewer than two voices, a pair without a sentence in common, or a voice that is
            silent.
        ValueError: there is no feature.
    """
    if len(voices) < 2:
        raise DatasetError("need recordings of at least two speakers to compare")
    if not features:
        raise ValueError("no feature to compare")
    for a, b in itertools.combinations(voices, 2):
        if not set(a.clips) & set(b.clips):
            raise DatasetError(
                f"{a.name} and {b.name} have no sentence in common: name the recordings of the"
                " same sentence alike"
            )
    tell = progress or silent
    prepared = [_prepare(voice, features, tell) for voice in voices]
    pairs = list(itertools.combinations(prepared, 2))
    scores = []
    for done, (one, other) in enumerate(pairs, 1):
        scores.append(_compare(one, other, tolerance))
        tell(done, len(pairs), f"{one.name} and {other.name}")
    return scores


@dataclass(frozen=True)
class _Prepared:
    """A voice after encoding: normalised frames (S, D) and which of them are no pause."""

    name: str
    features: Mapping[str, Mapping[str, FloatArray]]  # by feature and sentence
    guide: Mapping[str, FloatArray]  # what aligns, by sentence
    active: Mapping[str, BoolArray]


_guide_features = with_context(mel_features, 3)


def _prepare(voice: Voice, features: Mapping[str, Features], tell: Progress) -> _Prepared:
    guide: dict[str, FloatArray] = {}
    raw: dict[str, dict[str, FloatArray]] = {name: {} for name in features}
    for done, (sentence, wav) in enumerate(voice.clips.items(), 1):
        frames = {name: make(wav) for name, make in features.items()}
        guide[sentence] = _guide_features(wav)
        length = min(len(guide[sentence]), *(len(found) for found in frames.values()))
        guide[sentence] = guide[sentence][:length]  # encoders differ by a frame
        for name, found in frames.items():
            raw[name][sentence] = found[:length]
        tell(done, len(voice.clips), f"{voice.name} {sentence}")
    active = {sentence: active_frames(wav) for sentence, wav in voice.clips.items()}
    if not any(frames.any() for frames in active.values()):
        raise DatasetError(f"the recordings of {voice.name} hold nothing but silence")
    return _Prepared(
        voice.name,
        {name: normalise(clips) for name, clips in raw.items()},
        normalise(guide),
        active,
    )


def _compare(one: _Prepared, other: _Prepared, tolerance: int) -> PairScore:
    """Both directions of a pair; the figures of both are pooled."""
    rows, columns = list(one.guide), list(other.guide)
    paths = {
        name: dtw(cosine_cost(one.guide[name], other.guide[name])).path
        for name in rows
        if name in other.guide
    }
    back = {name: np.ascontiguousarray(path[:, ::-1]) for name, path in paths.items()}
    scores = {}
    for feature in one.features:
        a, b = one.features[feature], other.features[feature]
        distances = np.array(
            [[dtw(cosine_cost(a[row], b[column])).distance for column in columns] for row in rows],
            dtype=np.float32,
        )
        ranks = np.concatenate(
            [find_sentences(distances, rows, columns), find_sentences(distances.T, columns, rows)]
        )
        there, chance = find_frames(a, b, paths, one.active, tolerance=tolerance)
        here, chance_back = find_frames(b, a, back, other.active, tolerance=tolerance)
        chances = np.concatenate([chance, chance_back])
        scores[feature] = Score(
            top1=float((ranks <= 1).mean()),
            top5=float((ranks <= TOP).mean()),
            reciprocal_rank=float((1 / ranks).mean()),
            frames=float(np.concatenate([there, here]).mean()),
        )
    top1, top5, reciprocal_rank = np.mean([_blind(len(columns)), _blind(len(rows))], axis=0)
    scores[CHANCE] = Score(
        float(top1), float(top5), float(reciprocal_rank), frames=float(chances.mean())
    )
    return PairScore(
        voices=(one.name, other.name),
        n_sentences=len(paths),
        n_candidates=(len(rows) + len(columns)) / 2,
        n_frames=len(chances),
        scores=scores,
    )


def _blind(n: int) -> tuple[float, float, float]:
    """What guessing among n candidates reaches: top 1, top 5, mean reciprocal rank."""
    return 1 / n, min(1.0, TOP / n), float((1 / np.arange(1, n + 1)).mean())
