"""The config of a mix: what the configs of its voices must have in common, and where it goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svc.atomic import atomic_path
from svc.config import SvcConfig, load_config, save_config
from svc.errors import ConfigError, MissingFileError, OutputError, SvcError
from svc.export.voice_file import VoiceFile, config_beside, config_inside, net_rate_said

_NOT_IN_THE_NET = frozenset(
    {
        "encoder_path", "speaker_embedding", "n_layers_q", "p_dropout", "discriminator_width",
        "use_spectral_norm",
    }
)  # fmt: skip
"""Keys of the model section that change nothing in what the net computes."""
_DATA_FACTS = (
    "sampling_rate",
    "hop_length",
    "filter_length",
    "win_length",
    "unit_interpolate_mode",
)


def facts(config: SvcConfig) -> dict[str, Any]:
    """Return the values that nets must share to be mixed, by their keys in the file."""
    model, data = net_rate_said(config).model, config.data
    names = [item.name for item in dataclasses.fields(model) if item.name not in _NOT_IN_THE_NET]
    return {
        **{f"model.{name}": getattr(model, name) for name in names},
        **{f"data.{name}": getattr(data, name) for name in _DATA_FACTS},
    }


@dataclass(frozen=True)
class MixedConfig:
    """The config of a mix.

    Attributes:
        config: it; its path is the file to copy, None where it is a new one.
        names: id -> name in each input's own config, {} where that is not known.
    """

    config: SvcConfig
    names: tuple[Mapping[int, str], ...]

    def name_of(self, number: int, index: int, default: str) -> str:
        """Return what input `index` calls its speaker `number`."""
        return self.names[index].get(number, default)

    def check_place(self, folder: Path, *, force: bool) -> None:
        """Refuse a folder whose config.json is another voice's. Raises OutputError."""
        if not force and not self._is_in(folder) and (folder / "config.json").exists():
            raise OutputError(
                f"{folder / 'config.json'} is the config of another voice; write the mix into a "
                "folder of its own, or add --force to replace that config"
            )

    def place(self, folder: Path) -> Path:
        """Put the config beside the mix, where an equal one is not there. Raises OutputError."""
        target = folder / "config.json"
        if self._is_in(folder):
            return target
        if self.config.path is None:
            save_config(self.config, target)
            return target
        content = self.config.path.read_bytes()
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)
        return target

    def _is_in(self, folder: Path) -> bool:
        path = self.config.path
        if path is not None and path.resolve() == (folder / "config.json").resolve():
            return True
        try:
            there = load_config(folder / "config.json")
        except SvcError:  # none, or a damaged one
            return False
        return facts(there) == facts(self.config) and there.spk == self.config.spk


def common_config(
    voices: Sequence[VoiceFile], given: Path | None, speakers: Sequence[str] | None
) -> MixedConfig:
    """Find the config of a mix.

    Args:
        voices: the inputs. What a file was trained with is in the config beside it, else in the one
            inside it; where one is given, only what is inside counts against it.
        given: config file of the mix; None = the first that is found.
        speakers: names for the mix, in the order of their ids.

    Returns:
        The config.

    Raises:
        MissingFileError: there is none.
        ConfigError: configs differ in what the nets depend on or in their speakers.
    """
    beside: dict[Path, SvcConfig | None] = {}
    own = []
    for voice in voices:
        folder = voice.path.parent
        if given is None and folder not in beside:  # read, and warned about, once
            beside[folder] = config_beside(voice.path)
        own.append(beside.get(folder) or config_inside(voice))
    chosen = load_config(given) if given is not None else next(filter(None, own), None)
    if chosen is None:
        raise MissingFileError(
            f"there is no config.json beside {voices[0].path}; give the config of the voices with -c"
        )
    label = str(given) if given is not None else str(voices[own.index(chosen)].path)
    for voice, config in zip(voices, own, strict=True):
        if config is not None:
            _check_facts((label, chosen), (str(voice.path), config))
            if given is None and speakers is None:
                _check_speakers((label, chosen), (str(voice.path), config))
    names = tuple(
        {} if config is None else {number: name for name, number in config.spk.items()}
        for config in own
    )
    rows = chosen.model.n_speakers
    if max(chosen.spk.values()) >= rows:
        raise ConfigError(
            f'{label}: "spk" has an id above {rows - 1}, and "model.n_speakers" is {rows}'
        )
    return MixedConfig(chosen if speakers is None else _renamed(chosen, speakers), names)


def _check_facts(one: tuple[str, SvcConfig], two: tuple[str, SvcConfig]) -> None:
    first, second = facts(one[1]), facts(two[1])
    differing = [
        f"{key} {first[key]!r} and {second[key]!r}" for key in first if first[key] != second[key]
    ]
    if differing:
        raise ConfigError(
            f"{one[0]} and {two[0]} cannot be mixed, their configs differ: {'; '.join(differing)}"
        )


def _check_speakers(one: tuple[str, SvcConfig], two: tuple[str, SvcConfig]) -> None:
    if one[1].spk != two[1].spk:
        raise ConfigError(
            f"{one[0]} has the speakers {one[1].spk} and {two[0]} has {two[1].spk}: name the "
            "speakers of the mix with --speakers, in the order of their ids"
        )


def _renamed(config: SvcConfig, speakers: Sequence[str]) -> SvcConfig:
    ids = sorted(config.spk.values())
    if len(speakers) != len(ids) or len(set(speakers)) != len(ids) or not all(speakers):
        raise ConfigError(
            f"--speakers needs {len(ids)} different names, for the ids {', '.join(map(str, ids))}"
        )
    return dataclasses.replace(config, path=None, spk=dict(zip(speakers, ids, strict=True)))
