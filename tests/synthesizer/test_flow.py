from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from svc.synthesizer import Synthesizer

MakeNet = Callable[..., Synthesizer]

KINDS: list[dict[str, Any]] = [
    {},
    {"use_depthwise_conv": True},
    {"flow_share_parameter": True},
    {"use_transformer_flow": True},
    {"use_transformer_flow": True, "flow_share_parameter": True, "n_flow_layer": 3},
]


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize("frames_of_g", [1, 15])
@torch.no_grad()
def test_inverse_undoes_forward(
    make_net: MakeNet, changes: dict[str, Any], frames_of_g: int
) -> None:
    flow = make_net(**changes).flow
    z, g = torch.randn(2, 8, 15), torch.randn(2, 12, frames_of_g)
    mask = torch.ones(2, 1, 15)
    mask[1, :, 11:] = 0
    z = z * mask
    z_p = flow(z, mask, g)
    assert (z_p - z).abs().max() > 0.1
    assert torch.allclose(flow.inverse(z_p, mask, g), z, atol=1e-5)
    assert z_p[1, :, 11:].abs().max() == 0


@torch.no_grad()
def test_volume_is_preserved(make_net: MakeNet) -> None:
    """The Jacobian of one frame with respect to itself has determinant 1 in absolute value."""
    flow = make_net().flow
    mask, g = torch.ones(1, 1, 1), torch.randn(1, 12, 1)
    jacobian = torch.autograd.functional.jacobian(
        lambda z: flow(z[None, :, None], mask, g)[0, :, 0], torch.randn(8)
    )
    assert torch.linalg.det(jacobian).abs().item() == pytest.approx(1, abs=1e-4)


def test_a_fresh_flow_is_the_identity(make_config: Callable[..., Any]) -> None:
    flow = Synthesizer.from_config(make_config()).flow  # four flips undo each other
    z = torch.randn(1, 8, 5)
    assert torch.equal(flow(z, torch.ones(1, 1, 5), torch.randn(1, 12, 1)), z)


def test_a_shared_net_is_one_net_listed_under_every_name(make_net: MakeNet) -> None:
    net = make_net(flow_share_parameter=True)
    state = net.flow.state_dict()
    names = [name for name in state if name.endswith("cond_layer.weight_v")]
    assert names == [f"flows.{i}.enc.cond_layer.weight_v" for i in (0, 2, 4, 6)] + [
        "wn.cond_layer.weight_v"
    ]
    assert len({state[name].data_ptr() for name in names}) == 1
    assert sum("cond_layer.weight_v" in name for name, _ in net.flow.named_parameters()) == 1


@pytest.mark.parametrize(
    ("changes", "couplings", "layers"),
    [
        ({"n_flow_layer": 2}, 4, 2),  # depth of always four couplings
        ({"n_flow_layer": 2, "use_transformer_flow": True, "n_layers_trans_flow": 5}, 2, 5),
    ],
)
def test_n_flow_layer_means_depth_or_number(
    make_net: MakeNet, changes: dict[str, Any], couplings: int, layers: int
) -> None:
    names = list(make_net(**changes).flow.state_dict())
    part = "self_attn_layers" if "use_transformer_flow" in changes else "res_skip_layers"
    assert len({n.split(".")[1] for n in names if n.endswith(".post.weight")}) == couplings
    assert len({n.split(".")[4] for n in names if n.startswith(f"flows.0.enc.{part}.")}) == layers
