"""The fully connected model: its layers, and the names of its parameters in a checkpoint."""

from __future__ import annotations

from torch import nn

from sivae.models import MLPVAE


def test_linear_layers_with_relu_between_them():
    model = MLPVAE(data_dim=3, z_dim=2, hidden=8, layers=2)
    for network, sizes in ((model.encoder, [3, 8, 8, 4]), (model.decoder, [2, 8, 8, 3])):
        assert [type(module) for module in network] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
        linear = [module for module in network if isinstance(module, nn.Linear)]
        assert [layer.in_features for layer in linear] == sizes[:-1]
        assert [layer.out_features for layer in linear] == sizes[1:]
        assert all(layer.bias is not None for layer in linear)


def test_names_in_the_state_dict():
    assert list(MLPVAE(hidden=4, layers=1).state_dict()) == [
        f"{network}.{layer}.{kind}"
        for network in ("encoder", "decoder")
        for layer in (0, 2)
        for kind in ("weight", "bias")
    ]
