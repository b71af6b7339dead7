"""ONNX graphs: which of those that svc makes, runs or meets one is, by its inputs and outputs (spec_onnx)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from svc.config import SPEECH_ENCODER_DIMS, SvcConfig
from svc.config.bundle import (
    CONDITION,
    DENOISER,
    ENCODER,
    F0_DECODER,
    SYNTHESIZER,
    VOCODER,
    parse_bundle,
)
from svc.errors import ConfigError
from svc.inspection.onnx_file import NoGraphError, OnnxOutline, Port, read_outline
from svc.inspection.report import Fact, Finding, Safety
from svc.inspection.settings import Settings
from svc.safe_pickle import printable

GRAPH = "ONNX graph"
_MOST = 8  # operators and metadata that are shown
_VOICE, _MOEVS_CONDITION = "moevs voice", "moevs condition"
_ENCODER_IDS = [name for name in SPEECH_ENCODER_DIMS if name.endswith("-onnx")]


class _Role(NamedTuple):
    """A graph that is known by the names of its inputs and outputs, separated by spaces."""

    name: str
    what: str
    needs: str
    takes: str  # inputs it may have too
    makes: str  # "*": anything


_EXPORTED = "exported by svc"
_MOEVS = "for MoeVoiceStudio"
_ROLES = (  # the first that agrees counts
    _Role(
        SYNTHESIZER,
        f"synthesizer of a voice {_EXPORTED}",
        "units f0 uv noise noise_scale source_phase source_noise speaker_mix",
        "volume",
        "wav",
    ),
    _Role(
        F0_DECODER,
        f"automatic F0 of a voice {_EXPORTED}",
        "units f0 uv speaker_mix",
        "volume",
        "f0_predicted",
    ),
    _Role(
        CONDITION,
        f"condition of a diffusion model {_EXPORTED}",
        "units f0 volume",
        "spk_mix",
        "condition",
    ),
    _Role(DENOISER, "denoiser of a diffusion model", "noise time condition", "", "noise_pred"),
    _Role(VOCODER, f"vocoder {_EXPORTED}", "mel f0 source_phase source_noise", "", "wav"),
    _Role(ENCODER, f"speech encoder {_EXPORTED}", "wav", "", "units"),
    _Role("pitch net", f"pitch net {_EXPORTED}", "wav threshold f0_min f0_max", "", "f0"),
    _Role("swift", "pitch net swift-f0", "audio", "fmin fmax", "pitch confidence"),
    _Role(_VOICE, f"voice {_MOEVS}", "c f0 mel2ph uv noise sid", "vol", "audio"),
    _Role(
        _MOEVS_CONDITION,
        f"condition of a diffusion model {_MOEVS}",
        "hubert mel2ph f0 volume",
        "spk_mix",
        "mel_pred",
    ),
    _Role(
        "moevs step",
        f"sampler step of a diffusion model {_MOEVS}",
        "noise noise_pred time time_prev",
        "",
        "noise_pred_o",
    ),
    _Role("moevs end", f"last step of a diffusion model {_MOEVS}", "x", "", "mel_out"),
    _Role("vocoder", "vocoder, as the community exports it", "mel f0", "", "*"),
)


def describe_graph(path: Path) -> Finding | None:
    """Describe an ONNX file, None where it is none; of its weights nothing is read."""
    try:
        outline = read_outline(path)
    except NoGraphError:
        return None
    except ValueError as error:
        return Finding(
            GRAPH,
            "ONNX graph, by its first bytes",
            safety=Safety(None, "a graph is data; it was not run"),
            damage=f"{error}; copy or download it again",
        )
    role, what = _role(outline)
    facts: dict[str, Fact] = {
        "role": role,
        "inputs": [printable(str(port)) for port in outline.inputs],
        "outputs": [printable(str(port)) for port in outline.outputs],
        "opset": outline.opsets.get("", outline.opsets.get("ai.onnx")),
        "ir_version": outline.ir_version,
        "producer": printable(outline.producer),
        "operators": sum(outline.operators.values()),
        "weights": dict(outline.weights),
        "metadata": {
            printable(key): printable(value)
            for key, value in list(outline.metadata.items())[:_MOST]
        },
    }
    fits, width = _fits(outline, role)
    return Finding(
        GRAPH,
        f"ONNX graph: {what}",
        {key: value for key, value in facts.items() if value not in ("", {}, None)},
        fits=fits,
        notes=tuple(_notes(outline)),
        safety=_safety(outline),
        compare=lambda settings: _compare(role, width, settings),
        beside=("config.json",) if role == _VOICE else (),
    )


def _role(outline: OnnxOutline) -> tuple[str, str]:
    inputs = {port.name for port in outline.inputs}
    outputs = {port.name for port in outline.outputs}
    for role in _ROLES:
        needs = set(role.needs.split())
        made = role.makes == "*" or set(role.makes.split()) <= outputs
        if needs <= inputs <= needs | set(role.takes.split()) and made:
            return role.name, role.what
    if _is_encoder(outline):
        return "encoder", "speech encoder"
    return "other", "of a kind that svc does not know"


def _is_encoder(outline: OnnxOutline) -> bool:
    """Whether it takes one wave [1, 1, N] and its first output is [1, S, C] (spec_encoders 10.2)."""
    if len(outline.inputs) != 1 or not outline.outputs:
        return False
    wave, units = outline.inputs[0], outline.outputs[0]
    return (
        wave.type == units.type == "float32"
        and len(wave.shape) == 3
        and (len(units.shape) == 3 or not units.shape)
    )


def _fits(outline: OnnxOutline, role: str) -> tuple[tuple[str, ...], int | None]:
    """Return what a graph can be used with, and the width of its units where it says."""
    if role == "encoder":
        width = _whole(outline.outputs[0], -1)
        ids = [name for name in _ENCODER_IDS if width in (None, SPEECH_ENCODER_DIMS[name])]
        if not ids:
            return (f"no encoder id of svc: its units are {width} wide",), width
        return (f"--speech_encoder {' or '.join(ids)}",), width
    if role in (_VOICE, _MOEVS_CONDITION):
        return ("MoeVoiceStudio, not svc infer",), _whole(outline.inputs[0], 2)
    if role.endswith(".onnx") or role == "pitch net":
        return ("svc infer --backend onnx, in its folder with svc.json",), None
    return (), None


def _whole(port: Port, axis: int) -> int | None:
    value = port.shape[axis] if len(port.shape) > abs(axis) - (axis < 0) else None
    return value if isinstance(value, int) and value > 0 else None


def _notes(outline: OnnxOutline) -> Iterable[str]:
    if outline.other_files:
        names = ", ".join(printable(name or "?") for name in outline.other_files[:3])
        yield f"it keeps weights in other files ({names}): svc refuses such graphs"
    foreign = sorted(name for name in outline.opsets if name not in ("", "ai.onnx", "ai.onnx.ml"))
    used = [name for name in foreign if any(op.startswith(f"{name}.") for op in outline.operators)]
    if used:
        yield f"it uses operators beyond the standard ones: {', '.join(map(printable, used))}"


def _safety(outline: OnnxOutline) -> Safety:
    """A graph is data, but one that names files elsewhere makes a loader read them."""
    elsewhere = [name for name in outline.other_files if _leaves_its_folder(name)]
    if elsewhere:
        return Safety(
            False,
            f"an ordinary loader would read other files: {', '.join(map(printable, elsewhere[:3]))}",
        )
    return Safety(True, "a graph is data: it was read as such, and not run")


def _leaves_its_folder(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in name


def _compare(role: str, width: int | None, settings: Settings) -> list[str] | None:
    if not isinstance(settings, SvcConfig) or width is None:
        return None
    if width == settings.model.ssl_dim:
        return []
    what = "gives" if role == "encoder" else "takes"
    return [f"it {what} units {width} wide, model.ssl_dim is {settings.model.ssl_dim}"]


def manifest(raw: object, path: Path) -> Finding:
    """Describe `svc.json`, the manifest of an exported voice."""
    what = "manifest of a voice exported to ONNX (svc.json)"
    try:
        bundle = parse_bundle(raw, where=path.name)
    except ConfigError as error:
        return Finding("exported voice", what, damage=str(error))
    missing = [name for name in bundle.graphs if not path.with_name(name).is_file()]
    changed = [
        name
        for name, facts in bundle.graphs.items()
        if name not in missing and path.with_name(name).stat().st_size != facts.bytes
    ]
    damage = None
    if missing:
        damage = f"graphs that it names are not beside it: {', '.join(missing)}"
    elif changed:
        damage = f"not as long as it says: {', '.join(changed)}"
    facts: dict[str, Fact] = {
        "sampling_rate": bundle.sampling_rate,
        "hop_length": bundle.hop_length,
        "speech_encoder": printable(bundle.encoder.id),
        "units": bundle.units_dim,
        "speakers": [printable(name) for name in bundle.speakers],
        "use_automatic_f0_prediction": bundle.has_auto_f0,
        "vol_embedding": bundle.has_volume,
        "f0_predictors": list(bundle.f0),
        "diffusion": bundle.diffusion is not None,
        "vocoder": bundle.vocoder is not None,
        "graphs": {name: graph.bytes for name, graph in bundle.graphs.items()},
        "made_from": printable(bundle.source.checkpoint),
        "step": bundle.source.step,
        "svc_version": printable(bundle.svc_version),
    }
    return Finding(
        "exported voice",
        what,
        facts,
        fits=("svc infer --backend onnx",),
        damage=damage,
        compare=lambda settings: _compare("takes", bundle.units_dim, settings),
    )
