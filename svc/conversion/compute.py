"""How the nets of a voice are computed: what a user chooses, and what came of it. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from svc.errors import ConfigError

BACKENDS = ("auto", "torch", "onnx", "openvino")
"""What can compute a voice. An exported one is sung by onnxruntime; of a checkpoint, the generator is what
onnxruntime or OpenVINO take over."""

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class ComputeChoice:
    """How the nets of a voice are to be computed; the defaults are exact.

    Raises:
        ConfigError: an unknown name, or two that contradict each other; the message names the flag.
    """

    backend: str = "torch"  # one of `BACKENDS` (--backend)
    precision: str = "fp32"  # of the generator's large products, one of `PRECISIONS` (--precision)
    compile: bool = False  # let torch.compile make kernels for the generator (--compile)

    def __post_init__(self) -> None:
        for flag, value, known in (
            ("--backend", self.backend, BACKENDS),
            ("--precision", self.precision, PRECISIONS),
        ):
            if value not in known:
                raise ConfigError(f'{flag} "{value}" is unknown: choose {", ".join(known)}')
        if self.compile and self.backend not in ("auto", "torch"):
            raise ConfigError(
                f"--compile and --backend {self.backend}: only torch's nets are compiled; leave one of "
                "them out"
            )

    def sings_export(self, model_path: str | Path | None) -> bool:
        """Return whether a voice is an exported one, which is a folder.

        Args:
            model_path: the voice; None = a checkpoint that is looked for.

        Raises:
            ConfigError: it is, and something was chosen that graphs cannot do.
        """
        if model_path is None or not Path(model_path).is_dir():
            return False
        where = f"{model_path} is a folder, an exported voice"
        if self.backend not in ("auto", "onnx"):
            raise ConfigError(f"--backend {self.backend}: {where}: use --backend onnx")
        if self.precision not in ("auto", "fp32"):
            raise ConfigError(f"--precision {self.precision}: {where}, which computes in fp32")
        if self.compile:
            raise ConfigError(f"--compile: {where}, and only torch's nets are compiled")
        return True


@dataclass(frozen=True)
class Computing:
    """How the nets of a loaded voice are computed."""

    backend: str = "torch"  # of the generator, or of all where the voice is exported
    precision: str = "fp32"  # of the generator's large products
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.backend}, {self.precision}{', compiled' if self.compiled else ''}"
