"""The training step that train.py compares with: as so-vits-svc 4.1 takes it (spec_core 7).

Float32, nothing fused: real and fake through the discriminator one after the other in both phases,
its weights learning nothing and yet differentiated in the generator's, weight norm anew in every
pass, AdamW tensor by tensor, a gradient norm per parameter brought to the host, the mel of whole
clips. Each of `Options` takes one of these away. Used by scripts/bench/train.py and
tests/scripts/test_bench_train.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from train_plain_nets import (
    Layer,
    Weights,
    decoder,
    discriminator,
    flow,
    transformer,
    wavenet,
)

from svc.audio.frames import slice_segments
from svc.audio.mel import synthesizer_mel
from svc.audio.pitch import f0_to_coarse, f0_to_lf0, normalize_lf0
from svc.config import SvcConfig
from svc.synthesizer.model import ORIGINAL_SAMPLING_RATE, Synthesizer
from svc.training.batches import Batch
from svc.vocoder.discriminator import Discriminator

Maps = list[list[Tensor]]

POSTERIOR_LAYERS = 16
PITCH_SCALE = (0.8, 1.2)


@dataclass(frozen=True)
class Options:
    """What is done as our trainer does it."""

    one_pass: bool = False
    """Real and fake in one batch through the discriminator's own step."""
    frozen: bool = False
    """No gradients for the discriminator's weights in the generator's step."""
    fused: bool = False
    """AdamW in one kernel."""
    one_norm: bool = False
    """Gradient norms of all tensors together, left on the device."""
    windows: bool = False
    """Mel of the recorded windows only."""
    channels_last: bool = False
    """Convolutions in the layout of matrix units."""
    bf16: bool = False
    """The nets in bfloat16."""


class PlainTrainer:
    """Both nets with their optimizers.

    Args:
        config: of the voice; a residual flow, a plain generator and weight norm.
        generator: gives the parameters, which are trained in place.
        judge: likewise.
        options: what is not plain.

    Raises:
        ValueError: a variant of the nets that is not compared.
    """

    def __init__(
        self,
        config: SvcConfig,
        generator: Synthesizer,
        judge: Discriminator,
        options: Options | None = None,
    ) -> None:
        model, data = config.model, config.data
        if model.use_transformer_flow or model.use_spectral_norm or "snake" in model.vocoder_name:
            raise ValueError("only the default kinds of nets have a plain path")
        self.config, self.options = config, options or Options()
        self.device = next(generator.parameters()).device
        self.nets: tuple[nn.Module, nn.Module] = (generator, judge)
        self.g, self.d = (
            Weights(dict(net.named_parameters(remove_duplicate=False)), self.options.channels_last)
            for net in self.nets
        )
        self.optim_g, self.optim_d = (self._adamw(net) for net in self.nets)
        self.layers = layers_of(judge)
        self.mel = synthesizer_mel(
            data.sampling_rate, data.filter_length, data.hop_length, data.win_length,
            data.n_mel_channels, data.mel_fmin, data.mel_fmax,
        )  # fmt: skip

    def _adamw(self, net: nn.Module) -> torch.optim.AdamW:
        train, fused = self.config.train, self.options.fused
        return torch.optim.AdamW(
            net.parameters(),
            lr=train.learning_rate,
            betas=(train.betas[0], train.betas[1]),
            eps=train.eps,
            foreach=None if fused else False,
            fused=fused,
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16)

    # ---- one step --------------------------------------------------------------------------------

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Train on one batch; returns losses by name."""
        options, train = self.options, self.config.train
        batch = batch.to(self.device)
        hop, frames = self.config.data.hop_length, self.config.segment_frames
        mel = None if options.windows else self.mel.from_spec(batch.spec)
        with self._autocast():
            fake, starts, parts = self._generate(batch)
        fake = fake.float()
        if mel is None:
            real_mel = self.mel.from_spec(slice_segments(batch.spec, starts, frames))
        else:
            real_mel = slice_segments(mel, starts, frames)
        fake_mel = self.mel(fake[:, 0])
        real = slice_segments(batch.wav, starts * hop, frames * hop)

        real_maps, fake_maps = self._judge(real, fake.detach(), together=options.one_pass)
        scores = zip(
            (maps[-1].float() for maps in real_maps),
            (maps[-1].float() for maps in fake_maps),
            strict=True,
        )
        loss_d = sum(((1 - r) ** 2).mean() + (f**2).mean() for r, f in scores)
        self._descend(self.optim_d, loss_d)

        self.nets[1].requires_grad_(not options.frozen)
        real_maps, fake_maps = self._judge(real, fake, together=False)
        self.nets[1].requires_grad_(True)
        losses = {
            "mel": F.l1_loss(real_mel, fake_mel) * train.c_mel,
            "kl": parts["kl"] * train.c_kl,
            "fm": 2 * sum(
                (r.float().detach() - f.float()).abs().mean()
                for reals, fakes in zip(real_maps, fake_maps, strict=True)
                for r, f in zip(reals, fakes, strict=True)
            ),
            "gen": sum(((1 - maps[-1].float()) ** 2).mean() for maps in fake_maps),
        }  # fmt: skip
        if "lf0" in parts:
            losses["lf0"] = parts["lf0"]
        self._descend(self.optim_g, sum(losses.values()))
        return {"disc": loss_d.detach(), **{k: v.detach() for k, v in losses.items()}}

    def _descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        grads = [p.grad for p in optimizer.param_groups[0]["params"] if p.grad is not None]
        if self.options.one_norm:
            torch.nn.utils.get_total_norm(grads)
        else:
            sum(grad.norm(2).item() ** 2 for grad in grads) ** 0.5
        optimizer.step()

    def _judge(self, real: Tensor, fake: Tensor, *, together: bool) -> tuple[Maps, Maps]:
        with self._autocast():
            if not together:
                return tuple(discriminator(self.d, self.layers, wav) for wav in (real, fake))
            both = discriminator(self.d, self.layers, torch.cat([real, fake]))
        halves = [[maps.chunk(2) for maps in stack] for stack in both]
        return tuple([[pair[side] for pair in stack] for stack in halves] for side in (0, 1))

    def _generate(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Windows (B, 1, S), their first frames, and the losses that need no window."""
        w, model = self.g, self.config.model
        dropout = model.p_dropout if self.nets[0].training else 0.0
        length = batch.units.shape[2]
        inside = torch.arange(length, device=self.device)[None] < batch.lengths[:, None]
        mask = inside[:, None].float()
        g = w["emb_g.weight"][batch.speaker][:, :, None]
        x = w.conv("pre", batch.units, padding=2) * mask
        x = x + F.embedding(batch.uv.long(), w["emb_uv.weight"]).transpose(1, 2)
        if model.vol_embedding:
            volume = batch.volume[:, :, None]
            x = x + F.linear(volume, w["emb_vol.weight"], w["emb_vol.bias"]).transpose(1, 2)

        parts = {}
        if model.use_automatic_f0_prediction:
            factor = torch.empty(len(batch), 1).uniform_(*PITCH_SCALE).to(self.device)
            lf0 = f0_to_lf0(batch.f0)[:, None]
            y = x.detach() + w.conv("f0_decoder.cond", g)
            normalised = normalize_lf0(lf0, batch.uv, mask, factor)
            y = y + w.conv("f0_decoder.f0_prenet", normalised, padding=1)
            y = w.conv("f0_decoder.prenet", y, padding=1) * mask
            y = transformer(w, "f0_decoder.decoder", y * mask, mask, model, dropout, causal=True)
            predicted = w.conv("f0_decoder.proj", y) * mask
            parts["lf0"] = F.mse_loss(predicted.float(), lf0)

        coarse = f0_to_coarse(batch.f0, compat=True)
        h = x + F.embedding(coarse, w["enc_p.f0_emb.weight"]).transpose(1, 2)
        h = transformer(w, "enc_p.enc_", h * mask, mask, model, dropout, causal=False)
        m_p, logs_p = (w.conv("enc_p.proj", h) * mask).float().chunk(2, 1)
        (m_p + noise_like(m_p) * torch.exp(logs_p)) * mask  # sampled and dropped

        h = wavenet(
            w, "enc_q.enc", w.conv("enc_q.pre", batch.spec) * mask, mask, g, POSTERIOR_LAYERS
        )
        m_q, logs_q = (w.conv("enc_q.proj", h) * mask).float().chunk(2, 1)
        z = (m_q + noise_like(m_q) * torch.exp(logs_q)) * mask
        z_p = flow(w, z, mask, g, model.n_flow_layer).float()
        kl = logs_p - logs_q - 0.5 + 0.5 * (z_p - m_p) ** 2 * torch.exp(-2 * logs_p)
        parts["kl"] = (kl * mask).sum() / mask.sum()

        frames = self.config.segment_frames
        first = torch.rand(len(batch)).to(self.device) * (batch.lengths - frames + 1)
        starts = first.long()
        window = slice_segments(z, starts, frames)
        f0 = slice_segments(batch.f0, starts, frames)
        rate = model.sampling_rate or ORIGINAL_SAMPLING_RATE
        return decoder(w, model, window, f0, g, rate), starts, parts


def noise_like(x: Tensor) -> Tensor:
    """Normal numbers in the shape of x, drawn in the order of its indices.

    `torch.randn_like` draws in the order of its memory: the same seed would be another noise where a
    convolution has left its result with the channels last.
    """
    return torch.randn(x.shape, dtype=x.dtype, device=x.device)


def layers_of(judge: Discriminator) -> list[list[Layer]]:
    """How the convolutions of our discriminator are applied."""
    return [
        [Layer(conv.stride, conv.padding, conv.groups) for conv in (*stack.convs, stack.conv_post)]
        for stack in judge.discriminators
    ]
