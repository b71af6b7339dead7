"""`svc.json`, the manifest of a voice exported to ONNX: what its graphs are and what runs them.

The folder holds one graph per model and this file. Reading it needs neither torch nor onnx: `svc
infer --backend onnx` runs without the first.

Inputs and outputs of the graphs, every axis in [] symbolic but the numbers::

    encoder.onnx       wav [1, samples] at 16 kHz -> units [1, U, units]
    synthesizer.onnx   units [1, U, frames], f0 [1, frames] Hz, uv [1, frames],
                       noise [1, inter, frames], noise_scale [1], source_phase [1, H] turns,
                       source_noise [1, samples, H], speaker_mix [mix_frames, S]
                       (, volume [1, frames] where has_volume) -> wav [1, 1, samples]
    f0_decoder.onnx    units, f0, uv, speaker_mix(, volume) -> f0_predicted [1, frames]
    f0_<name>.onnx     wav [1, samples] at 16 kHz, threshold [1], f0_min [1], f0_max [1]
                       -> f0 [1, frames] Hz, confidence [1, frames]
    diffusion_condition.onnx  units [1, frames, U], f0, volume [1, frames]
                       (, spk_mix [mix_frames, S]) -> condition [1, H, frames]
    diffusion_denoiser.onnx   noise [1, 1, M, frames], time [1], condition -> noise_pred
    vocoder.onnx       mel [1, M, frames], f0 [1, frames], source_phase [1, H],
                       source_noise [1, samples, H] -> wav [1, 1, samples]
    mel.onnx           wav [1, samples] at the vocoder's rate -> mel [1, M, frames], natural log
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from svc.atomic import write_text
from svc.config.schema import coerce, type_name
from svc.errors import CheckpointError, ConfigError, MissingFileError

MANIFEST = "svc.json"
FORMAT = "svc-onnx"
VERSION = 1

ENCODER = "encoder.onnx"
SYNTHESIZER = "synthesizer.onnx"
F0_DECODER = "f0_decoder.onnx"
CONDITION = "diffusion_condition.onnx"
DENOISER = "diffusion_denoiser.onnx"
VOCODER = "vocoder.onnx"
MEL = "mel.onnx"

_AGAIN = "export the voice again with  svc onnx-export --profile full"
_BLOCK = 1 << 20  # bytes hashed at a time
Facts = TypeVar("Facts")


def f0_graph(name: str) -> str:
    """Return the file name of a pitch predictor's graph: ``f0_rmvpe.onnx``."""
    return f"f0_{name}.onnx"


@dataclass(frozen=True)
class GraphFacts:
    """One graph of the folder."""

    sha256: str  # of the file
    bytes: int
    opset: int
    max_abs_error: float | None = None  # largest difference from torch in the check at export
    tolerance: float | None = None  # what it had to stay within
    lengths: tuple[int, ...] = ()  # along the time axis, of the inputs of the check

    def __post_init__(self) -> None:
        _at_least(self, 1, "bytes", "opset")


@dataclass(frozen=True)
class EncoderFacts:
    """The speech encoder: `ENCODER`, 50 frames per second of audio at 16 kHz."""

    id: str
    dim: int  # U, width of the units
    usual_seconds: float  # longest stretch whose units are like those of training clips
    least_samples: int = 400  # shorter waves are to be zero-padded to it
    most_samples: int = 480_000  # longest wave that one run takes
    sampling_rate: int = 16000  # Hz
    hop_length: int = 320  # samples per frame

    def __post_init__(self) -> None:
        _at_least(self, 1, "dim", "least_samples", "most_samples", "sampling_rate", "hop_length")


@dataclass(frozen=True)
class F0Facts:
    """A pitch predictor: its graph makes samples // hop_length + 1 frames."""

    lowest: float  # Hz, that the net knows
    highest: float
    threshold: float = 0.05  # what svc uses: frames not above it are unvoiced
    least_samples: int = 1600  # shorter waves are to be zero-padded to it
    sampling_rate: int = 16000  # Hz
    hop_length: int = 160  # samples per frame
    resample_width: int = 128  # zero crossings of the sinc in front of it (spec_f0 7.2)
    high_register: bool = False  # rmvpe's second reading of notes above 1040 Hz is in the graph

    def __post_init__(self) -> None:
        _at_least(self, 1, "least_samples", "sampling_rate", "hop_length")


@dataclass(frozen=True)
class DiffusionFacts:
    """A diffusion model: `CONDITION` and `DENOISER`."""

    sampling_rate: int  # Hz
    hop_length: int  # samples per frame
    encoder: str  # id of its speech encoder
    units_dim: int  # U
    unit_interpolate_mode: str
    n_mels: int  # M
    n_hidden: int  # H, channels of the condition
    timesteps: int  # N
    k_step_max: int  # steps it was trained on; below N it can only refine
    n_speakers: int  # columns of spk_mix; 1: there is no such input
    method: str  # sampler that its config names
    speedup: int
    mel_min: tuple[float, ...] = (-12.0,)  # the mel that -1 stands for, of all bands or of each
    mel_max: tuple[float, ...] = (2.0,)  # the mel that 1 stands for
    speakers: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _at_least(self, 1, "sampling_rate", "hop_length", "n_mels", "timesteps", "k_step_max")
        _at_least(self, 1, "n_speakers", "units_dim", "n_hidden")


@dataclass(frozen=True)
class VocoderFacts:
    """A mel vocoder: `VOCODER`, and the natural-log mel it takes."""

    sampling_rate: int  # Hz
    hop_length: int  # samples per frame
    n_mels: int  # M
    n_fft: int  # samples
    win_length: int  # samples
    fmin: float  # Hz
    fmax: float | None  # Hz; None: half the sampling rate
    n_harmonics: int = 9  # H; 0: a mini-NSF vocoder, whose graph takes mel and f0 only

    def __post_init__(self) -> None:
        _at_least(self, 1, "sampling_rate", "hop_length", "n_mels", "n_fft", "win_length")


@dataclass(frozen=True)
class SourceFacts:
    """The checkpoint that was exported."""

    checkpoint: str  # file name
    sha256: str
    step: int | None = None


@dataclass(frozen=True)
class Bundle:
    """A whole manifest.

    Raises:
        ConfigError: facts that contradict each other.
    """

    sampling_rate: int  # Hz, of the voice
    hop_length: int  # samples per frame
    unit_interpolate_mode: str  # how units are stretched to frames (spec_core 5.4)
    speakers: dict[str, int]  # name -> column of speaker_mix
    n_speakers: int  # S, columns of speaker_mix
    units_dim: int  # U
    inter_channels: int  # channels of `noise`
    n_harmonics: int  # H, of the harmonic source
    has_auto_f0: bool
    has_volume: bool
    encoder: EncoderFacts
    graphs: dict[str, GraphFacts]  # by file name
    source: SourceFacts
    svc_version: str
    voice_ranges: dict[str, Any] = field(default_factory=dict)  # as checkpoints store them
    f0: dict[str, F0Facts] = field(default_factory=dict)  # by predictor
    diffusion: DiffusionFacts | None = None
    vocoder: VocoderFacts | None = None

    def __post_init__(self) -> None:
        _at_least(self, 1, "sampling_rate", "hop_length", "n_speakers", "units_dim", "n_harmonics")
        if not self.speakers or not all(0 <= i < self.n_speakers for i in self.speakers.values()):
            raise ConfigError(
                f'"speakers" {self.speakers} must be names with ids from 0 to n_speakers - 1 '
                f"({self.n_speakers - 1})"
            )
        if self.encoder.dim != self.units_dim:
            raise ConfigError(
                f'"encoder.dim" ({self.encoder.dim}) and "units_dim" ({self.units_dim}) differ'
            )
        for name in self.graphs:
            if Path(name).name != name or not name.endswith(".onnx"):
                raise ConfigError(
                    f'"graphs" has the name {name!r}: only files beside it can be named'
                )
        absent = sorted(self.needed_graphs() - set(self.graphs))
        if absent:
            raise ConfigError(f'"graphs" lacks {", ".join(absent)}')

    def needed_graphs(self) -> set[str]:
        """Return the file names that the other facts ask for."""
        names = {ENCODER, SYNTHESIZER, *map(f0_graph, self.f0)}
        if self.has_auto_f0:
            names.add(F0_DECODER)
        if self.diffusion is not None:
            names |= {CONDITION, DENOISER}
        if self.vocoder is not None:
            names |= {VOCODER, MEL}
        return names

    def to_dict(self) -> dict[str, Any]:
        """Return the file's content."""
        plain = json.loads(json.dumps(dataclasses.asdict(self)))
        return {"format": FORMAT, "version": VERSION, **plain}


_PARTS: dict[str, type[Any]] = {
    "encoder": EncoderFacts,
    "source": SourceFacts,
    "diffusion": DiffusionFacts,
    "vocoder": VocoderFacts,
}
_TABLES: dict[str, type[Any]] = {"graphs": GraphFacts, "f0": F0Facts}


def parse_bundle(raw: Any, *, where: str) -> Bundle:
    """Build a manifest from parsed JSON; keys it does not know are left out.

    Args:
        raw: the parsed file.
        where: its name for messages.

    Raises:
        ConfigError: another kind of file, one of a later version, or a wrong value; names the key.
    """
    if not isinstance(raw, Mapping) or raw.get("format") != FORMAT:
        raise ConfigError(f'{where}: not the manifest of an exported voice ("format": "{FORMAT}")')
    version = raw.get("version")
    if version != VERSION:
        raise ConfigError(
            f"{where}: version {version!r} of the manifest, this svc reads version {VERSION}: "
            f"update svc, or {_AGAIN}"
        )
    given = dict(raw)
    for name, cls in _PARTS.items():
        if name in ("encoder", "source") or given.get(name) is not None:
            given[name] = _section(cls, given.get(name), where, f"{name}.")
    for name, cls in _TABLES.items():
        given[name] = {
            str(key): _section(cls, value, where, f"{name}.{key}.")
            for key, value in _mapping(given.get(name, {}), where, name).items()
        }
    return _section(Bundle, given, where, "")


def read_bundle(folder: str | Path) -> Bundle:
    """Read the manifest of an exported voice, and see that its graphs are there.

    Args:
        folder: the folder, or its `svc.json`.

    Returns:
        The manifest.

    Raises:
        MissingFileError: there is no manifest, or a graph is not there.
        ConfigError: see `parse_bundle`.
        CheckpointError: a graph is not as long as the manifest says.
    """
    path = manifest_path(folder)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingFileError(
            f"{path} is not there: give the folder of a voice made by  svc onnx-export --profile full"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); {_AGAIN}") from error
    bundle = parse_bundle(raw, where=str(path))
    for name, facts in bundle.graphs.items():
        graph = path.with_name(name)
        if not graph.is_file():
            raise MissingFileError(f"{graph} is not there, but {path.name} names it; {_AGAIN}")
        if graph.stat().st_size != facts.bytes:
            raise _changed(graph, f"has {graph.stat().st_size:,} bytes, not {facts.bytes:,}")
    return bundle


def verify_bundle(folder: str | Path, bundle: Bundle) -> None:
    """Compare the content of every graph with the manifest. Raises CheckpointError."""
    for name, facts in bundle.graphs.items():
        graph = manifest_path(folder).with_name(name)
        if file_sha256(graph) != facts.sha256:
            raise _changed(graph, "is not what was exported (its SHA-256 differs)")


def write_bundle(bundle: Bundle, folder: str | Path) -> None:
    """Write the manifest into a folder, atomically. Raises OutputError."""
    text = json.dumps(bundle.to_dict(), indent=2, ensure_ascii=False) + "\n"
    write_text(manifest_path(folder), text)


def manifest_path(folder: str | Path) -> Path:
    """Return the path of the manifest of a folder, or `folder` itself if it is a manifest."""
    path = Path(folder)
    return path if path.name == MANIFEST else path / MANIFEST


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal, read a block at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _changed(graph: Path, how: str) -> CheckpointError:
    return CheckpointError(f"{graph} {how}; copy the whole folder again, or {_AGAIN}")


def _at_least(facts: Any, least: int, *names: str) -> None:
    for name in names:
        if getattr(facts, name) < least:
            raise ConfigError(f'"{name}" must be at least {least}, found {getattr(facts, name)}')


def _mapping(raw: Any, where: str, name: str) -> Mapping[Any, Any]:
    if not isinstance(raw, Mapping):
        raise ConfigError(
            f'{where}: "{name.rstrip(".")}" must be an object, found {raw!r}; {_AGAIN}'
        )
    return raw


def _section(cls: type[Facts], raw: Any, where: str, prefix: str) -> Facts:
    """Build one class of facts from a mapping; members that are objects have been built before."""
    raw = _mapping(raw, where, prefix)
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        key, hint = f"{prefix}{item.name}", hints[item.name]
        if item.name not in raw:
            if item.default is item.default_factory is dataclasses.MISSING:
                raise ConfigError(f'{where}: the key "{key}" is missing; {_AGAIN}')
            continue
        value = raw[item.name]
        try:
            values[item.name] = _value(value, hint)
        except TypeError:
            expected = "an object" if typing.get_origin(hint) is dict else type_name(hint)
            raise ConfigError(f'{where}: "{key}" must be {expected}, found {value!r}') from None
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}; {_AGAIN}") from None


def _value(value: Any, hint: Any) -> Any:
    """Return `value` as the annotated type. Raises TypeError."""
    if dataclasses.is_dataclass(value):
        return value
    if typing.get_origin(hint) is dict:
        if not isinstance(value, Mapping):
            raise TypeError
        kind = typing.get_args(hint)[1]
        return {str(k): v if kind is Any else _value(v, kind) for k, v in value.items()}
    return coerce(value, hint)
