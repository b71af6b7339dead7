"""Where the weights of an encoder lie: looked up, and missed, before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from svc.config import split_encoders
from svc.errors import ConfigError, MissingFileError
from svc.pretrained import find_pretrained, whisper_tiny_asset
from svc.speech.hugging_face import WEIGHTS, find_weights
from svc.speech.registry import ENCODERS

_SETTINGS = ("config.json", "preprocessor_config.json")  # read beside Hugging Face's weights
_BUNDLED = "whisper-ppg-tiny"  # needs no file under pretrain/


def locate_encoder(
    name: str, paths: Path | Mapping[str, Path] | None, pretrain_dir: Path
) -> dict[str, Path]:
    """Find what an encoder will be read from.

    Args:
        name: an encoder or a fusion.
        paths: weights other than the default ones: a file or folder for a single encoder, or by id
            as `svc.config.encoder_paths` returns them.
        pretrain_dir: folder of the default files. whisper-ppg-tiny needs none: where tiny.pt is
            absent the bundled encoder is used.

    Returns:
        File or folder of each part, in the order of the parts.

    Raises:
        ConfigError: an unknown encoder, or a path that is for none of its parts.
        MissingFileError: a file or folder is not there; says which, where it goes and what works
            without it.
    """
    given = check_given(name, paths)
    return {
        part: given[part] if part in given else _default(part, pretrain_dir)
        for part in split_encoders(name)
    }


def check_given(name: str, paths: Path | Mapping[str, Path] | None) -> dict[str, Path]:
    """Check the paths that were given for an encoder; the default ones are not looked for.

    Args:
        name: an encoder or a fusion.
        paths: as for `locate_encoder`.

    Returns:
        The same by encoder id.

    Raises:
        ConfigError: an unknown encoder, or a path that is for none of its parts.
        MissingFileError: a file or folder is not there.
    """
    parts = split_encoders(name)
    if isinstance(paths, Path):
        if len(parts) > 1:
            raise ConfigError(
                f'{paths}: "{name}" is two encoders, say whose file it is: '
                f"--encoder_path {parts[0]}={paths}"
            )
        paths = {parts[0]: paths}
    given = dict(paths or {})
    for part, path in given.items():
        if part not in parts:
            raise ConfigError(
                f'{path} is given for "{part}", but the encoder is "{name}": check --encoder_path'
            )
        if not path.exists():
            raise MissingFileError(
                f"{path} is not there, the weights of {part}: give the file or folder with"
                ' --encoder_path, or correct "model.encoder_path" of the config'
            )
        files_of(path)
    return given


def files_of(path: Path) -> list[Path]:
    """List all files that decide what an encoder gives: weights, and the settings beside them.

    Args:
        path: file or folder, as `locate_encoder` returns it.

    Raises:
        MissingFileError: a folder without weights.
    """
    weights = find_weights(path) if path.is_dir() else path
    if path.is_file() and path.name not in WEIGHTS:
        return [weights]
    settings = [weights.with_name(name) for name in _SETTINGS]
    return [weights, *(file for file in settings if file.is_file())]


def _default(part: str, pretrain_dir: Path) -> Path:
    """Path of the file under pretrain/ that an encoder is read from."""
    file = ENCODERS[part].file.name
    if part == _BUNDLED and not (pretrain_dir / file).is_file():
        return whisper_tiny_asset()
    return find_pretrained(file, pretrain_dir)
