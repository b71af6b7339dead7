"""Replacing each frame by the nearest k-means centre of the voice (spec_cluster_index 3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from svc.errors import ConfigError
from svc.retrieval.distances import nearest, squared_norms
from svc.retrieval.kmeans_files import listing, read_centres, read_facts


class ClusterModel:
    """Replaces each frame by the nearest centre of the voice: a `svc.retrieval.UnitRetriever`.

    Args:
        centres: speaker name -> (k, U) float32, at least one.
        where: the file, for messages.
        device: where distances are computed.
    """

    def __init__(
        self, centres: Mapping[str, Tensor], *, where: str, device: torch.device | str = "cpu"
    ) -> None:
        self._centres = dict(centres)
        self._where = where
        self._device = torch.device(device)
        # The centres of one voice at a time are on the device, as its name, they and their norms.
        self._there: tuple[str, torch.dtype, Tensor, Tensor] | None = None
        self.dim = next(iter(self._centres.values())).shape[1]

    @property
    def speakers(self) -> frozenset[str]:
        """Names of the voices that have centres."""
        return frozenset(self._centres)

    def labels(self, units: Tensor, name: str) -> Tensor:
        """Return the index of the nearest centre of each frame, int64 (N,), on the model's device.

        Args:
            units: (N, U), float32; float64 is computed in float64.
            name: of the voice.

        Raises:
            ConfigError: no centres of that voice, or units of another width.
        """
        if units.shape[-1] != self.dim:
            raise ConfigError(_width_message(self._where, self.dim, units.shape[-1]))
        centres, norms = self._on_device(name, _dtype(units))
        return nearest(units.to(self._device, centres.dtype), centres, norms)[0]

    def match(self, units: Tensor, name: str, speaker_id: int) -> Tensor:
        """Return the nearest centre of each frame.

        Args:
            units: (N, U) float32.
            name: of the voice.
            speaker_id: not used; centres go by names.

        Returns:
            (N, U), on the device and of the dtype of `units`.

        Raises:
            ConfigError: no centres of that voice, or units of another width.
        """
        labels = self.labels(units, name)
        centres, _ = self._on_device(name, _dtype(units))
        return centres[labels].to(units.device, units.dtype)

    def _on_device(self, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        there = self._there
        if there is None or there[:2] != (name, dtype):
            if name not in self._centres:
                raise ConfigError(
                    f'{self._where} has no centres of the speaker "{name}"; it has those of '
                    f"{listing(self._centres)}"
                )
            centres = self._centres[name].to(self._device, dtype)
            self._there = there = (name, dtype, centres, squared_norms(centres))
        return there[2], there[3]


def _dtype(units: Tensor) -> torch.dtype:
    return torch.float64 if units.dtype == torch.float64 else torch.float32


def _width_message(where: str, ours: int, wanted: int) -> str:
    return (
        f"{where} has centres of {ours} values and the voice's encoder gives {wanted}: they were made "
        "with another encoder; give the file that belongs to this voice, or make it with  svc train-cluster"
    )


def load_clusters(
    path: Path, *, dim: int, device: torch.device | str, encoder: str | None
) -> ClusterModel:
    """Load a file of centres and check that it fits the voice.

    Args:
        path: the file.
        dim: width U of the voice's units.
        device: where distances are computed.
        encoder: id of the voice's content encoder; None: not compared.

    Raises:
        MissingFileError: no such file.
        CheckpointError: damaged, refused, or no file of centres.
        ConfigError: made of units of another width or encoder.
    """
    model = ClusterModel(read_centres(path), where=str(path), device=device)
    facts = read_facts(path)
    made_with = facts.encoder if facts else None
    if encoder is not None and made_with is not None and made_with != encoder:
        raise ConfigError(
            f'{path} was made with the encoder "{made_with}" and the voice listens with "{encoder}"; '
            "give the file that belongs to this voice, or make it with  svc train-cluster"
        )
    if model.dim != dim:
        raise ConfigError(_width_message(str(path), model.dim, dim))
    return model
