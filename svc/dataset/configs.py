"""The config files of a new data set: `config.json` and `diffusion.yaml` (spec_core 1.6 and
6.3).
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from svc.atomic import atomic_path
from svc.config import (
    DiffusionConfig,
    SvcConfig,
    find_template,
    load_config,
    load_diffusion_config,
    new_config,
    new_diffusion_config,
    save_config,
    save_diffusion_config,
)
from svc.dataset.filelist import assign_ids
from svc.errors import ConfigError


@dataclass(frozen=True)
class ConfigOptions:
    """What `new_configs` fills in."""

    config_path: Path = Path("configs/config.json")
    train_list: Path = Path("filelists/train.txt")
    val_list: Path = Path("filelists/val.txt")
    template: str | None = None  # name or path; None = template.json, or template_tiny.json
    speech_encoder: str | None = None  # one, or two joined by "+"; None = the template's
    encoder_path: str | None = None  # weights other than the default ones, see `encoder_paths`;
    # None = the template's, where the encoder is the template's too
    vol_aug: bool = False  # volume embedding and augmentation
    tiny: bool = False
    vocoder: str | None = None  # weights or folder of the mel vocoder; None = the template's

    @property
    def diffusion_path(self) -> Path:
        """The diffusion config lies beside the synthesizer's."""
        return self.config_path.with_name("diffusion.yaml")


def load_template(options: ConfigOptions) -> SvcConfig:
    """Load the template: a path, or the name of one that comes with the program.

    Raises:
        MissingFileError: no such template.
        ConfigError: it is not a config.
    """
    name = options.template or ("template_tiny.json" if options.tiny else "template.json")
    path = Path(name)
    return load_config(path if path.is_file() else find_template(name))


def build_config(options: ConfigOptions, speakers: Iterable[str]) -> tuple[SvcConfig, list[str]]:
    """Make the config of a data set; nothing is written.

    Speakers that the config of an earlier run knows keep their ids, and the number of rows of the
    speaker embedding does not shrink, so that training can go on from its checkpoints (spec_core
    10, D1).

    Args:
        options: template, encoder, lists.
        speakers: folder names.

    Returns:
        The config, and notes for the user.

    Raises:
        ConfigError: unknown encoder, a path that does not say whose it is, or a template that is no
            config.
    """
    template = load_template(options)
    encoder, path = options.speech_encoder or template.model.speech_encoder, options.encoder_path
    if path is None and encoder == template.model.speech_encoder:
        path = template.model.encoder_path
    notes: list[str] = []
    earlier = _earlier(options.config_path, notes)
    known: Mapping[str, int] = earlier.spk if earlier is not None else {}
    names = sorted(set(speakers))
    ids = assign_ids(names, known)
    config = new_config(
        template,
        speech_encoder=encoder,
        speakers=ids,
        vol_aug=options.vol_aug,
        tiny=options.tiny,
        encoder_path=path,
    )
    rows = max(ids.values()) + 1
    if earlier is not None and known.keys() & ids.keys():
        rows = max(rows, earlier.model.n_speakers)
    if ids != assign_ids(names) or rows != len(names):
        notes.append(
            f"speaker ids and the {rows} rows of the speaker embedding are kept from "
            f"{options.config_path}; delete it to number the speakers afresh"
        )
    return (
        dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, n_speakers=rows),
            data=dataclasses.replace(
                config.data,
                training_files=options.train_list.as_posix(),
                validation_files=options.val_list.as_posix(),
            ),
        ),
        notes,
    )


def build_diffusion_config(options: ConfigOptions, config: SvcConfig) -> DiffusionConfig:
    """Make the diffusion config that belongs to a config; nothing is written.

    Args:
        options: where the vocoder lies.
        config: from `build_config`.

    Raises:
        ConfigError: the template is no diffusion config.
    """
    diffusion = load_diffusion_config(find_template("diffusion_template.yaml"))
    diffusion = new_diffusion_config(
        diffusion,
        encoder=config.model.speech_encoder,
        encoder_out_channels=config.model.ssl_dim,
        speakers=config.spk,
    )
    vocoder = diffusion.vocoder
    if options.vocoder is not None:
        vocoder = dataclasses.replace(vocoder, ckpt=options.vocoder)
    return dataclasses.replace(
        diffusion,
        vocoder=vocoder,
        model=dataclasses.replace(diffusion.model, n_spk=config.model.n_speakers),
        data=dataclasses.replace(
            diffusion.data,
            sampling_rate=config.data.sampling_rate,
            block_size=config.data.hop_length,
            training_files=config.data.training_files,
            validation_files=config.data.validation_files,
            unit_interpolate_mode=config.data.unit_interpolate_mode,
        ),
    )


def write_configs(options: ConfigOptions, config: SvcConfig) -> list[str]:
    """Write `config.json` and `diffusion.yaml`; files with other content are kept as ``.bak``
    first.

    Args:
        options: where to.
        config: from `build_config`.

    Returns:
        Notes for the user.

    Raises:
        OutputError: a file cannot be written.
    """
    diffusion = build_diffusion_config(options, config)
    notes: list[str] = []
    path = options.config_path
    if path.is_file() and not _same_config(path, config):
        notes.append(_back_up(path))
    save_config(config, path)
    path = options.diffusion_path
    if path.is_file() and not _same_diffusion(path, diffusion.to_dict()):
        notes.append(_back_up(path))
    save_diffusion_config(diffusion, path)
    return notes


def _earlier(path: Path, notes: list[str]) -> SvcConfig | None:
    if not path.is_file():
        return None
    try:
        return load_config(path)
    except ConfigError as error:
        notes.append(f"the earlier config was of no use for speaker ids ({error})")
        return None


def _same_config(path: Path, config: SvcConfig) -> bool:
    try:
        return bool(load_config(path).to_dict() == json.loads(json.dumps(config.to_dict())))
    except ConfigError:
        return False


def _same_diffusion(path: Path, content: object) -> bool:
    try:
        return load_diffusion_config(path).to_dict() == content
    except ConfigError:
        return False


def _back_up(path: Path) -> str:
    """Copy a file to the first free ``.bak`` name; returns a note."""
    number = 1
    while (target := path.with_name(f"{path.name}.bak{number if number > 1 else ''}")).exists():
        number += 1
    with atomic_path(target) as temporary:
        shutil.copyfile(path, temporary)
    return f"{path} was different; the earlier one is kept as {target.name}"
