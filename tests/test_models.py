import pytest
import torch
from torch import nn

from async_dni import fcn, tanh


def kinds(module):
    return [type(layer) for layer in module.modules() if not isinstance(layer, nn.Sequential)]


def test_fcn_is_the_papers_network():
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert kinds(fcn(layers=3)) == [nn.Flatten, *hidden, *hidden, nn.Linear]
    shapes = [tuple(p.shape) for p in fcn(layers=3).parameters() if p.dim() == 2]
    assert shapes == [(256, 784), (256, 256), (10, 256)]


def test_only_the_output_layer_of_fcn_has_a_bias():
    linears = [module for module in fcn(layers=4, width=8).modules() if isinstance(module, nn.Linear)]
    assert [linear.bias is not None for linear in linears] == [False, False, False, True]


@pytest.mark.parametrize("layers", [1, 2, 3, 6])
def test_fcn_has_a_block_a_layer(layers):
    model = fcn(layers, 16, input_shape=(3, 4, 4), num_classes=7)
    assert len(model) == layers
    assert model(torch.rand(2, 3, 4, 4)).shape == (2, 7)


def test_tanh_is_one_hidden_layer_in_two_blocks():
    model = tanh(32, input_shape=(2, 3), num_classes=5)
    assert kinds(model) == [nn.Flatten, nn.Linear, nn.Tanh, nn.Linear]
    assert len(model) == 2
    x = torch.rand(4, 2, 3)
    hidden, output = model[0][1], model[1]
    expected = torch.tanh(x.view(4, 6) @ hidden.weight.T + hidden.bias) @ output.weight.T + output.bias
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("model", [fcn, tanh])
def test_the_defaults_take_mnist(model):
    assert model()(torch.rand(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("model", [fcn, tanh])
def test_weights_are_those_of_the_seed(model):
    weights = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        weights.append(nn.utils.parameters_to_vector(model(width=8).parameters()))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
