"""From a device's name to a device that is there."""

from __future__ import annotations

import torch

from sivae.errors import ConfigError


def find_device(name: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one, else the CPU.

    Raises:
        ConfigError: it is not there, or computes nothing.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("it computes nothing")
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"device = {name!r} is not there ({reason}); use cpu, or auto to take what there is"
        ) from None
    return device
