"""Devices: what is asked for is used, or it is an error."""

from __future__ import annotations

import pytest
import torch

from svc.devices import available_devices, resolve_device
from svc.errors import DeviceError


def test_cpu_is_always_there() -> None:
    assert available_devices()[-1] == "cpu"
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(None) == resolve_device("auto") == torch.device(available_devices()[0])


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "gpu", "cuda"])
def test_an_unmet_device_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DeviceError, match="cpu") as caught:
        resolve_device(name)
    assert f'"{name}"' in str(caught.value)
