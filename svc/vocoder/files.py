"""The two files of a mel vocoder, weights and `config.json` in one folder, and where they are found
(spec_vocoder 1).

Several vocoders may lie side by side under pretrain/, each in a folder of its own; wherever a vocoder
is named, the name of that folder will do:

    pretrain/nsf_hifigan/     model, config.json
    pretrain/my_vocoder/      model, config.json      --vocoder my_vocoder
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from svc.checkpoint import load_checkpoint, strip_prefix
from svc.config import VocoderConfig, load_vocoder_config
from svc.errors import CheckpointError, MissingFileError
from svc.pretrained import PRETRAIN_DIR, PRETRAINED

CONFIG_NAME = "config.json"
_WEIGHT_NAMES = ("model", "model.ckpt", "model.pt", "model.safetensors")
_COMMUNITY = "nsf_hifigan/model"


def vocoders_in(folder: str | Path = PRETRAIN_DIR) -> list[str]:
    """Return the names of the folders in `folder` that hold weights and config of a vocoder."""
    configs = sorted(Path(folder).glob(f"*/{CONFIG_NAME}"))
    # The config of an encoder from Hugging Face has the same name, its weights never one of these.
    return [path.parent.name for path in configs if weights_in(path.parent) is not None]


def weights_in(folder: Path) -> Path | None:
    """Return the weights of a vocoder in a folder, by their name; None = there are none."""
    found = (folder / name for name in _WEIGHT_NAMES)
    return next((path for path in found if path.is_file()), None)


def _located(path: str | Path) -> Path:
    """Return the path of a vocoder that is given by its path, or by its name under pretrain/."""
    given = Path(path)
    if given.exists() or len(given.parts) != 1:
        return given
    if (PRETRAIN_DIR / given).is_dir():
        return PRETRAIN_DIR / given
    raise MissingFileError(
        f"the vocoder's file {given} is missing, and {PRETRAIN_DIR}/ has no folder of that name: "
        f"{_those_there()}"
    )


def _those_there() -> str:
    names = vocoders_in()
    return f"there lie: {', '.join(names)}" if names else "no vocoder lies there"


def find_vocoder(path: str | Path) -> tuple[Path, Path]:
    """Find the two files of a vocoder.

    Args:
        path: its weights, their folder, or the name of a folder under pretrain/.

    Returns:
        Weights and config.

    Raises:
        MissingFileError: says which file is missing, where it comes from and where it goes.
    """
    given = _located(path)
    weights = given
    if given.is_dir():
        weights = weights_in(given) or given / _WEIGHT_NAMES[0]
    if not weights.is_file():
        raise _missing(weights)
    return weights, find_vocoder_config(weights)


def find_vocoder_config(path: str | Path) -> Path:
    """Find the config of a vocoder, which is all that measuring mels needs.

    Args:
        path: as for `find_vocoder`; the weights need not be there.

    Raises:
        MissingFileError: as `find_vocoder`.
    """
    given = _located(path)
    config = given / CONFIG_NAME if given.is_dir() else given.with_name(CONFIG_NAME)
    if not config.is_file():
        raise _missing(config)
    return config


def _missing(file: Path) -> MissingFileError:
    known = PRETRAINED[_COMMUNITY]
    return MissingFileError(
        f"the vocoder's file {file} is missing: unpack {known.what} ({known.size_text}, from "
        f"{known.source}) so that model and {CONFIG_NAME} lie in {file.parent}, or name a vocoder "
        "that you have, by its path or the name of its folder in "
        f"{PRETRAIN_DIR}/: --vocoder, or vocoder.ckpt of the diffusion config; {_those_there()}"
    )


_KINDS = {
    (False, False): "an ordinary NSF-HiFiGAN vocoder",
    (True, False): "a mini-NSF vocoder",
    (False, True): "an NSF-Snake vocoder",
    (True, True): "a mini-NSF vocoder with Snake activations",
}


def read_vocoder(weights: Path, config_path: Path) -> tuple[VocoderConfig, dict[str, Tensor]]:
    """Read the two files of a vocoder, found by `find_vocoder`.

    Args:
        weights: `model`.
        config_path: `config.json`.

    Returns:
        The config, and the generator's tensors as they are named in the file.

    Raises:
        ConfigError: the config is damaged or impossible.
        CheckpointError: the weights are damaged, refused, or another kind of vocoder's.
    """
    config = load_vocoder_config(config_path)
    state = _tensors(load_checkpoint(weights), str(weights))
    is_mini = "source_conv.weight" in state
    is_snake = any(name.startswith("snakes.") for name in state)
    if (is_mini, is_snake) != (config.mini_nsf, config.snake):
        holds = _KINDS[is_mini, is_snake]
        says = _KINDS[config.mini_nsf, config.snake]
        raise CheckpointError(
            f'{weights} holds {holds} and {config_path} is that of {says} (its keys "mini_nsf" and '
            '"snake"); both files must come from the same archive'
        )
    return config, state


def _tensors(checkpoint: Mapping[str, Any], what: str) -> dict[str, Tensor]:
    state = checkpoint.get("generator", checkpoint.get("model", checkpoint))
    if not isinstance(state, Mapping):
        state = {}
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    tensors = strip_prefix(tensors)
    if not any(name.startswith("conv_pre.") for name in tensors):
        raise CheckpointError(
            f'{what} is no NSF-HiFiGAN vocoder: it has no entry "generator" with its weights'
        )
    return tensors
