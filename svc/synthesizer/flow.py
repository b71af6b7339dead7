"""Normalising flow between the posterior and the prior latent, conditioned on the speaker.

Mean-only affine couplings and channel flips (VITS, Kim, Kong and Son 2021, arXiv:2106.06103,
section 2.5.2): volume preserving, so no log-determinant. So-vits-svc 4.1 behaviour, spec_core 2.5.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from svc.config import ModelConfig
from svc.synthesizer.attention import CausalStack
from svc.synthesizer.blocks import WN
from svc.vocoder.convolution import Conv1d

_RESIDUAL_COUPLINGS = 4
_KERNEL = 5


class Coupling(nn.Module):
    """Shifts one half of the channels by a function of the other half.

    Args:
        channels: C, even.
        hidden_channels: H of the net.
        net: maps (x (B, H, T), mask, g) to (B, H, T).
    """

    def __init__(self, channels: int, hidden_channels: int, net: nn.Module) -> None:
        super().__init__()
        half = channels // 2
        self.pre = Conv1d(half, hidden_channels, 1)
        self.enc = net
        self.post = Conv1d(hidden_channels, half, 1)
        # A fresh flow is the identity.
        nn.init.zeros_(self.post.weight)
        if self.post.bias is not None:
            nn.init.zeros_(self.post.bias)

    def _shift(self, x0: Tensor, mask: Tensor, g: Tensor | None) -> Tensor:
        shift: Tensor = self.post(self.enc(self.pre(x0) * mask, mask, g)) * mask
        return shift

    def forward(self, x: Tensor, mask: Tensor, g: Tensor | None = None) -> Tensor:
        """Posterior -> prior direction: x (B, C, T)."""
        x0, x1 = x.chunk(2, dim=1)
        return torch.cat([x0, self._shift(x0, mask, g) + x1 * mask], dim=1)

    def inverse(self, x: Tensor, mask: Tensor, g: Tensor | None = None) -> Tensor:
        """Prior -> posterior direction: x (B, C, T)."""
        x0, x1 = x.chunk(2, dim=1)
        return torch.cat([x0, (x1 - self._shift(x0, mask, g)) * mask], dim=1)


class Flip(nn.Module):
    """Reverses the order of the channels, so that the next coupling changes the other half."""

    def forward(self, x: Tensor, mask: Tensor, g: Tensor | None = None) -> Tensor:
        """Flip x (B, C, T)."""
        return x.flip(1)

    def inverse(self, x: Tensor, mask: Tensor, g: Tensor | None = None) -> Tensor:
        """Flip x (B, C, T) back."""
        return x.flip(1)


class Flow(nn.Module):
    """Couplings alternating with flips.

    Args:
        channels: C.
        hidden_channels: H.
        n_couplings: number of couplings.
        make_net: returns a fresh net for a coupling.
        shared: one net for all couplings. Its tensors are then listed under every coupling and once
            more as ``wn``.
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        *,
        n_couplings: int,
        make_net: Callable[[], nn.Module],
        shared: bool,
    ) -> None:
        super().__init__()
        net = make_net() if shared else None
        self.flows = nn.ModuleList()
        for _ in range(n_couplings):
            self.flows.append(Coupling(channels, hidden_channels, net or make_net()))
            self.flows.append(Flip())
        self.wn = net

    def forward(self, x: Tensor, mask: Tensor, g: Tensor | None = None) -> Tensor:
        """Map a posterior latent to the prior's space.

        Args:
            x: (B, C, T).
            mask: (B, 1, T).
            g: (B, G, 1) or (B, G, T).

        Returns:
            (B, C, T).
        """
        for flow in self.flows:
            x = flow(x, mask, g)
        return x

    def inverse(self, x: Tensor, mask: Tensor, g: Tensor | None = None) -> Tensor:
        """Map a prior latent to the posterior's space; arguments as `forward`."""
        for flow in reversed(self.flows):
            x = flow.inverse(x, mask, g)  # type: ignore[operator]
        return x


def make_flow(model: ModelConfig) -> Flow:
    """Build the flow that a config asks for.

    Residual (default): always four couplings whose nets are gated convolution stacks of
    `n_flow_layer` layers. Transformer: `n_flow_layer` couplings whose nets are causal transformers
    of `n_layers_trans_flow` layers (spec_core 10, M12).
    """
    hidden = model.hidden_channels

    def make_net() -> nn.Module:
        if model.use_transformer_flow:
            return CausalStack(
                hidden,
                model.filter_channels,
                n_heads=model.n_heads,
                n_layers=model.n_layers_trans_flow,
                kernel_size=_KERNEL,
                p_dropout=model.p_dropout,
                gin_channels=model.gin_channels,
            )
        return WN(
            hidden,
            kernel_size=_KERNEL,
            n_layers=model.n_flow_layer,
            gin_channels=model.gin_channels,
            depthwise=model.use_depthwise_conv,
        )

    return Flow(
        model.inter_channels,
        hidden,
        n_couplings=model.n_flow_layer if model.use_transformer_flow else _RESIDUAL_COUPLINGS,
        make_net=make_net,
        shared=model.flow_share_parameter,
    )
