"""The content encoders there are, and how each is made from its file (spec_encoders 1).

What a default file is, and who published it, is in `svc.pretrained`; how wide the units are, in
`svc.config.encoders`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from svc.config import SPEECH_ENCODER_DIMS
from svc.pretrained import PretrainedFile, file_of

Family = Literal["wave", "whisper", "onnx"]
Kind = Literal["HuBERT", "hubert-soft", "WavLM", "DPHuBERT"]


@dataclass(frozen=True)
class Entry:
    """One encoder."""

    name: str  # id
    family: Family  # the net: wav2vec 2.0 family, Whisper, or a graph that onnxruntime runs
    kind: Kind | None = None  # wave: which nets of the family it is made from
    layer: int | None = None  # wave: layer that is tapped, counted from 1; None: the end of the net
    project: bool = False  # wave: the final projection is applied
    padding: int = 0  # wave: zeros before and after a wave

    @property
    def dim(self) -> int:
        """Width of the units."""
        return SPEECH_ENCODER_DIMS[self.name]

    @property
    def file(self) -> PretrainedFile:
        """The default file."""
        return file_of(self.name)


_ENTRIES = (
    Entry("vec768l12", "wave", kind="HuBERT", layer=12),
    Entry("vec256l9", "wave", kind="HuBERT", layer=9, project=True),
    Entry("vec256l9-onnx", "onnx"),
    Entry("vec256l12-onnx", "onnx"),
    Entry("vec768l9-onnx", "onnx"),
    Entry("vec768l12-onnx", "onnx"),
    # 40 zeros on either side make one frame of each full 320 samples (spec_encoders 7).
    Entry("hubertsoft", "wave", kind="hubert-soft", layer=12, project=True, padding=40),
    Entry("hubertsoft-onnx", "onnx"),
    Entry("whisper-ppg", "whisper"),
    Entry("whisper-ppg-large", "whisper"),
    Entry("whisper-ppg-tiny", "whisper"),
    Entry("whisper-ppg-base", "whisper"),
    Entry("whisper-ppg-small", "whisper"),
    Entry("cnhubertlarge", "wave", kind="HuBERT"),
    Entry("dphubert", "wave", kind="DPHuBERT"),
    Entry("wavlmbase+", "wave", kind="WavLM"),
)

ENCODERS: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""Every encoder by its id."""

ENCODER_NAMES: tuple[str, ...] = tuple(ENCODERS)
"""Ids that `build_speech_encoder` makes; two of them joined by "+" are a fusion."""
