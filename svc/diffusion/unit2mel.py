"""Mel spectrograms from units, pitch and volume by diffusion (spec_diffusion 5-7).

Letters: B batch, M mel bands, N frames, H hidden channels, U unit channels, S speakers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from svc.config import DiffusionConfig
from svc.diffusion.chunks import Chunk, join, split, walls
from svc.diffusion.denoiser import Denoiser
from svc.diffusion.mel_diffusion import MelDiffusion
from svc.diffusion.samplers import check_sampling
from svc.errors import ConfigError

_SHIFT_SCALE = 5.0  # semitones


class Unit2Mel(nn.Module):
    """Diffusion voice: sings mels from nothing, or refines those of another voice.

    Args:
        units_dim: U.
        n_mels: M.
        n_layers: residual layers of the denoiser.
        n_chans: their width.
        n_hidden: H.
        n_spk: speakers; with 1 there is no table of them, and speakers are ignored.
        use_pitch_aug: whether it was told how far a training clip was shifted in pitch.
        timesteps: steps of the whole noise schedule.
        k_step_max: how many of them it was trained on; fewer than all = it can only refine.
    """

    def __init__(
        self,
        units_dim: int,
        *,
        n_mels: int = 128,
        n_layers: int = 20,
        n_chans: int = 512,
        n_hidden: int = 256,
        n_spk: int = 1,
        use_pitch_aug: bool = True,
        timesteps: int = 1000,
        k_step_max: int = 1000,
    ) -> None:
        super().__init__()
        self.n_mels = n_mels
        self.n_spk = n_spk
        self.timesteps = timesteps
        self.k_step_max = k_step_max
        self.global_step = 0
        """Training steps the weights have seen."""
        # The order of the members is the order of the state dict, hence of saved optimizers.
        self.unit_embed = nn.Linear(units_dim, n_hidden)
        self.f0_embed = nn.Linear(1, n_hidden)
        self.volume_embed = nn.Linear(1, n_hidden)
        self.aug_shift_embed = nn.Linear(1, n_hidden, bias=False) if use_pitch_aug else None
        self.spk_embed = nn.Embedding(n_spk, n_hidden) if n_spk > 1 else None
        self.decoder = MelDiffusion(
            Denoiser(n_mels, n_layers=n_layers, n_chans=n_chans, n_hidden=n_hidden), timesteps
        )

    @classmethod
    def from_config(cls, config: DiffusionConfig, *, n_mels: int = 128) -> Unit2Mel:
        """Build the net of a config with fresh weights.

        Args:
            config: of the voice.
            n_mels: bands of its vocoder, which the config does not tell.
        """
        model = config.model
        return cls(
            config.data.encoder_out_channels,
            n_mels=n_mels,
            n_layers=model.n_layers,
            n_chans=model.n_chans,
            n_hidden=model.n_hidden,
            n_spk=model.n_speakers,
            use_pitch_aug=model.use_pitch_aug,
            timesteps=model.n_steps,
            k_step_max=model.trained_steps,
        )

    @property
    def only_refines(self) -> bool:
        """Whether it was trained on the last steps only, and needs a mel to start from."""
        return self.k_step_max != self.timesteps

    def condition(
        self,
        units: Tensor,
        f0: Tensor,
        volume: Tensor,
        speaker: Tensor | None = None,
        *,
        speaker_mix: Tensor | None = None,
        aug_shift: Tensor | None = None,
    ) -> Tensor:
        """What the denoiser is told besides the noisy mel.

        Args:
            units: (B, N, U).
            f0: (B, N) Hz, gaps filled.
            volume: (B, N) linear RMS.
            speaker: (B,) int64 ids; ignored with a single speaker or a mix.
            speaker_mix: (N, S) weights of the first S speakers per frame, or (1, S).
            aug_shift: (B,) semitones by which the pitch was shifted; None = not at all.

        Returns:
            (B, H, N).
        """
        pitch = torch.log(1 + f0[..., None] / 700)
        h: Tensor = self.unit_embed(units) + self.f0_embed(pitch)
        h = h + self.volume_embed(volume[..., None])
        if self.spk_embed is not None:
            if speaker_mix is not None:
                table = self.spk_embed.weight[: speaker_mix.shape[1]]
                h = h + speaker_mix.to(h.dtype) @ table
            elif speaker is not None:
                h = h + self.spk_embed(speaker)[:, None]
            else:
                raise ValueError(f"{self.n_spk} speakers: give one of them, or a mix")
        if self.aug_shift_embed is not None and aug_shift is not None:
            h = h + self.aug_shift_embed(aug_shift[:, None, None] / _SHIFT_SCALE)
        return h.transpose(1, 2)

    def loss(
        self,
        mel: Tensor,
        units: Tensor,
        f0: Tensor,
        volume: Tensor,
        speaker: Tensor | None = None,
        *,
        aug_shift: Tensor | None = None,
        times: Tensor | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Mean squared error of the noise told (spec_diffusion 6).

        Args:
            mel: (B, M, N) natural-log mel.
            units: as all up to `aug_shift`, see `condition`.
            f0: (B, N) Hz.
            volume: (B, N).
            speaker: (B,).
            aug_shift: (B,).
            times: (B,) int64 in 0 ... k_step_max - 1; drawn when not given.
            noise: (B, 1, M, N); drawn when not given, after the times.
            generator: a CPU generator, or None for the global ones.

        Returns:
            Scalar.
        """
        clean = self.decoder.normalize(mel)
        if times is None:
            where = mel.device if generator is None else generator.device
            times = torch.randint(
                0, self.k_step_max, mel.shape[:1], generator=generator, device=where
            ).to(mel.device)
        if noise is None:
            noise = _draw(clean, generator)
        condition = self.condition(units, f0, volume, speaker, aug_shift=aug_shift)
        noisy = self.decoder.add_noise(clean, times, noise)
        told = self.decoder.denoise_fn(noisy, times, condition)
        return F.mse_loss(told.to(noise.dtype), noise)

    def settle(self, dtype: torch.dtype) -> None:
        """Lay the denoiser out for sampling, its large products in this precision, in place; see
        `Denoiser.settle`. The condition, the sampler's state and the schedule stay float32.
        """
        self.decoder.denoise_fn.settle(dtype)

    def check_infer(self, method: str | None, *, k_step: int | None, speedup: int) -> int:
        """Refuse what `infer` cannot do, before any work.

        Args:
            method: as `infer`.
            k_step: steps to refine a mel by; None = no mel, all steps.
            speedup: as `infer`.

        Returns:
            Number of steps of noise that are undone.

        Raises:
            ConfigError: says which values work.
        """
        if k_step is None:
            if self.only_refines:
                raise ConfigError(
                    f"this diffusion model knows only the last {self.k_step_max} of "
                    f"{self.timesteps} steps (model.k_step_max): it can refine another voice "
                    "(shallow diffusion) but not sing alone; give that voice, or another model"
                )
            k_step = self.timesteps
        elif k_step > self.k_step_max:
            raise ConfigError(
                f"k_step {k_step} is more than this diffusion model was trained for; use "
                f"{self.k_step_max} (its k_step_max) or less"
            )
        check_sampling(method, k_step=k_step, speedup=speedup)
        return k_step

    def check_speaker(self, number: int) -> None:
        """Refuse an id that the model does not have. Raises ConfigError."""
        if self.spk_embed is not None and not 0 <= number < self.n_spk:
            raise ConfigError(
                f"speaker id {number}: the diffusion model has the ids 0 to {self.n_spk - 1}; "
                "use the diffusion model that was trained with this voice's speakers"
            )

    @torch.no_grad()
    def infer(
        self,
        units: Tensor,
        f0: Tensor,
        volume: Tensor,
        speaker: Tensor | None = None,
        *,
        speaker_mix: Tensor | None = None,
        mel: Tensor | None = None,
        k_step: int = 100,
        method: str | None = "dpm-solver++",
        speedup: int = 10,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        compat: bool = False,
    ) -> Tensor:
        """Make a mel, or refine one.

        Args:
            units: as all up to `speaker_mix`, see `condition`.
            f0: (B, N) Hz.
            volume: (B, N).
            speaker: (B,).
            speaker_mix: (N, S) or (1, S).
            mel: (B, M, N) natural-log mel to refine; None = start from noise alone.
            k_step: with a mel, steps of noise put in and undone, 1 ... k_step_max; without one it
                is all of them, whatever is given.
            method: one of `METHODS`; None is ddpm.
            speedup: evaluations are fewer by this factor; with 1 it is ddpm, whatever the method.
            generator: a CPU generator, or None for the global ones.
            noise: (B, 1, M, N) N(0, 1) to start from; drawn when not given.
            compat: see `make_plan`.

        Returns:
            (B, M, N) natural-log mel.

        Raises:
            ConfigError: see `check_infer`; or a speaker the model does not have.
        """
        steps = self.check_infer(method, k_step=None if mel is None else k_step, speedup=speedup)
        if speaker_mix is not None:
            self.check_speaker(speaker_mix.shape[1] - 1)
        for number in [] if speaker is None else speaker.tolist():
            self.check_speaker(number)
        condition = self.condition(units, f0, volume, speaker, speaker_mix=speaker_mix)
        plan = self.decoder.plan(method, k_step=steps, speedup=speedup, compat=compat)
        like = condition.new_empty(units.shape[0], 1, self.n_mels, units.shape[1])
        x = _draw(like, generator) if noise is None else noise.to(like)
        x = self._start(x, mel, steps)
        x = self.decoder.sample(x, condition, plan, lambda: _draw(like, generator))
        return self.decoder.denormalize(x)

    @torch.no_grad()
    def infer_many(
        self,
        chunks: Sequence[Chunk],
        *,
        k_step: int = 100,
        method: str | None = "dpm-solver++",
        speedup: int = 10,
        compat: bool = False,
    ) -> list[Tensor]:
        """Make or refine the mels of several chunks in one pass.

        Each gets what `infer` makes of it alone with the same generator, rounding apart (float32:
        1e-4 of a natural-log mel): the denoiser sees zeros before and after every chunk, and each
        chunk draws its own numbers. Memory grows with the frames of all of them: cut a long row by
        `svc.diffusion.chunks.batches`.

        Args:
            chunks: all with a mel, or all without one.
            k_step: as all of the following, see `infer`.
            method: sampler.
            speedup: evaluations are fewer by this factor.
            compat: see `make_plan`.

        Returns:
            (M, N_i) natural-log mel of each, in their order.

        Raises:
            ConfigError: as `infer`.
        """
        refines = any(chunk.mel is not None for chunk in chunks)
        if refines and any(chunk.mel is None for chunk in chunks):
            raise ValueError("some chunks have a mel to refine and some have none")
        steps = self.check_infer(method, k_step=k_step if refines else None, speedup=speedup)
        conditions, starts = [], []
        for chunk in chunks:
            conditions.append(self._condition_of(chunk))
            like = conditions[-1].new_empty(1, 1, self.n_mels, len(chunk))
            mel = None if chunk.mel is None else chunk.mel[None]
            starts.append(self._start(_draw(like, chunk.generator), mel, steps))
        if not chunks:
            return []
        lengths = [len(chunk) for chunk in chunks]

        def draw() -> Tensor:
            return join([_draw(x, chunk.generator) for x, chunk in zip(starts, chunks)])

        x = self.decoder.sample(
            join(starts),
            join(conditions),
            self.decoder.plan(method, k_step=steps, speedup=speedup, compat=compat),
            draw,
            walls(lengths, starts[0].device),
        )
        return split(self.decoder.denormalize(x)[0], lengths)

    def _condition_of(self, chunk: Chunk) -> Tensor:
        """Check the speakers of a chunk and return its condition (1, H, N)."""
        mix, speaker = chunk.speaker_mix, chunk.speaker
        last = speaker if mix is None else mix.shape[1] - 1
        if last is not None:
            self.check_speaker(last)
        ids = None if speaker is None else torch.tensor([speaker], device=chunk.units.device)
        return self.condition(
            chunk.units[None], chunk.f0[None], chunk.volume[None], ids, speaker_mix=mix
        )

    def _start(self, noise: Tensor, mel: Tensor | None, steps: int) -> Tensor:
        """Return what sampling starts from, (B, 1, M, N): noise, or a mel (B, M, N) in noise."""
        if mel is None:
            return noise
        last = torch.full((len(noise),), steps - 1, device=noise.device)
        return self.decoder.add_noise(self.decoder.normalize(mel), last, noise)


def _draw(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw N(0, 1): with a generator where it lives, so a CPU one gives the same on any device."""
    where = like.device if generator is None else generator.device
    numbers = torch.randn(like.shape, generator=generator, device=where, dtype=torch.float32)
    return numbers.to(like)
