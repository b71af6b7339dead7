"""Does a file's name say something else than its content?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from svc.audio.io import AUDIO_SUFFIXES
from svc.inspection.encoders import ENCODER
from svc.inspection.graphs import GRAPH
from svc.inspection.media import AUDIO, F0, SPECTROGRAM, UNITS, VOLUME
from svc.inspection.nets import DIFFUSION
from svc.inspection.pitch_nets import PITCH_NET
from svc.inspection.report import Finding
from svc.inspection.retrieval import CLUSTERS, INDEX
from svc.inspection.voice import DISCRIMINATOR, VOICE
from svc.pretrained import PRETRAINED
from svc.safe_pickle import printable

_PATTERNS: tuple[tuple[str, str], ...] = (
    (r"G_\d+\.pth", VOICE),
    (r"D_\d+\.pth", DISCRIMINATOR),
    (r"model_\d+\.pt", DIFFUSION),
    (r"kmeans_\d+\.pt", CLUSTERS),
    (r"feature_and_index\.pkl|.*\.index", INDEX),
    (r".*\.soft\.pt", UNITS),
    (r".*\.spec\.pt", SPECTROGRAM),
    (r".*\.f0\.npy", F0),
    (r".*\.vol\.npy", VOLUME),
    (r".*\.onnx", GRAPH),
    ("|".join(rf".*\{suffix}" for suffix in sorted(AUDIO_SUFFIXES)), AUDIO),
)
_STEP = re.compile(r"[GD]_(\d+)\.pth")


def misleading(path: Path, finding: Finding) -> str | None:
    """Return a note where the name of a file promises another content, or another step."""
    name = printable(path.name)
    promised = _promised(path.name)
    if promised is not None and promised != finding.kind:
        what = finding.what.partition(":")[0] if finding.kind != "unknown" else "nothing svc knows"
        return f"misleading name: {name} promises a {promised}, the content is {what}"
    wanted = PRETRAINED.get(path.name)
    if wanted is not None and not _serves(wanted.ids, finding):
        return f"misleading name: {name} is the name of {wanted.what}, which this is not"
    step, known = _STEP.fullmatch(path.name), finding.facts.get("step")
    if step and isinstance(known, int) and known != int(step.group(1)):
        return f"misleading name: {name} promises step {step.group(1)}, the content is of {known}"
    return None


def _promised(name: str) -> str | None:
    for pattern, kind in _PATTERNS:
        if re.fullmatch(pattern, name, re.IGNORECASE if kind == AUDIO else 0):
            return kind
    return None


def _serves(ids: tuple[str, ...], finding: Finding) -> bool:
    """Whether a content can be what the ids of a published file ask for; what cannot be told counts."""
    facts: Mapping[str, object] = finding.facts
    if finding.kind == ENCODER:
        found = facts.get("encoder_ids")
        return not isinstance(found, list) or not found or bool(set(ids) & set(found))
    if finding.kind == PITCH_NET:
        return facts.get("f0_predictor") in ids
    return finding.kind == GRAPH and all(name.endswith("-onnx") for name in ids)
