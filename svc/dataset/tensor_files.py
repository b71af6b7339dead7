"""Files that hold one bare tensor, as so-vits-svc 4.1 writes `.soft.pt` and `.spec.pt` (spec_core 6.4)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from svc import checkpoint
from svc.errors import CheckpointError, DatasetError, MissingFileError

save_tensor = checkpoint.save_tensor


def load_tensor(path: Path) -> Tensor:
    """Load one tensor onto the CPU as float32; no code of the file runs.

    Raises:
        MissingFileError: no such file.
        DatasetError: damaged, refused, or not a tensor.
    """
    try:
        return checkpoint.load_tensor(path).float()
    except MissingFileError:
        raise MissingFileError(
            f"{path} is not there; run  svc preprocess --stage features"
        ) from None
    except CheckpointError as error:
        raise DatasetError(
            f"{path}: damaged or refused (only plain tensors are loaded); delete it and run  "
            "svc preprocess --stage features"
        ) from error
