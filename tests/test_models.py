import math

import pytest
import torch
from torch import nn

from async_dni import MODELS, ConfigError, Trainer, cnn, fcn, resnet, tanh, transformer, vgg


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


@pytest.mark.parametrize("model", [fcn, tanh, cnn, resnet, vgg, transformer])
def test_weights_are_those_of_the_seed(model):
    weights = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        weights.append(nn.utils.parameters_to_vector(model(width=8).parameters()))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


IMAGES = [(1, 28, 28), (3, 32, 32), (2, 5, 7), (1, 1, 1)]


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize(
    ("model", "settings", "blocks"),
    [
        (cnn, {}, 3),
        (cnn, {"layers": 4, "width": 6, "dropout": 0.5}, 4),
        (cnn, {"layers": 1}, 1),
        (resnet, {}, 5),
        (resnet, {"depth": 20, "width": 4}, 11),
        (vgg, {}, 9),
        (vgg, {"depth": 16, "width": 4, "dropout": 0.5}, 14),
    ],
)
def test_convolutional_networks_take_images_of_any_size_in_blocks(model, settings, blocks, shape):
    network = model(**settings, input_shape=shape, num_classes=7).eval()
    assert len(network) == blocks
    x = torch.rand(2, *shape)
    assert network(x).shape == (2, 7)
    for block in network[:-1]:
        x = block(x)
        assert x.dim() == 4
        assert len(x) == 2


def test_cnn_is_the_papers_convolutional_network():
    network = cnn(layers=3, width=128, input_shape=(3, 32, 32))
    hidden = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    assert kinds(network) == [*hidden, *hidden, nn.Flatten, nn.Linear]
    shapes = [tuple(p.shape) for p in network.parameters() if p.dim() > 1]
    assert shapes == [(128, 3, 5, 5), (128, 128, 5, 5), (10, 128 * 8 * 8)]
    x, sizes = torch.rand(2, 3, 32, 32), []
    for block in network[:-1]:
        x = block(x)
        sizes.append(x.shape[2])
    assert sizes == [16, 8]


def test_resnet_has_the_layers_of_its_depth_and_adds_what_comes_in():
    network = resnet(depth=20, width=16)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear) and m.weight.shape[2:] != (1, 1)]
    assert len(layers) == 20
    assert sum(parameter.numel() for parameter in network.parameters()) == 272_474  # 0.27 M, in the paper
    block = network[1].eval()
    with torch.no_grad():
        block.norm2.weight.zero_()
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(block(x), x), "what the convolutions give is nothing, and x is not negative"


def test_vgg_has_the_layers_of_its_depth():
    for depth in (11, 13, 16, 19):
        convolutions = [m for m in vgg(depth, 2).modules() if isinstance(m, nn.Conv2d)]
        assert len(convolutions) == depth - 3, "the paper's has three linear layers, this one has one"
    assert [m.out_channels for m in vgg(11, 64).modules() if isinstance(m, nn.Conv2d)] == [
        *(64, 128, 256, 256),
        *[512] * 4,
    ]


def test_transformer_gives_the_logits_that_cross_entropy_wants():
    network = transformer(3, 16, 2, input_shape=(9,), num_classes=11)
    assert len(network) == 5
    x = torch.randint(11, (4, 9))
    output = network(x)
    assert output.shape == (4, 11, 9)
    assert network(x[:, :5]).shape == (4, 11, 5), "a shorter sequence, too"
    loss = nn.CrossEntropyLoss()(output, x)
    assert float(loss.detach()) == pytest.approx(math.log(11), abs=0.5), "at first, no token is likelier than another"
    loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_no_step_of_the_transformer_sees_a_later_one():
    network = transformer(3, 16, 4, input_shape=(12,), num_classes=11).double().eval()
    x = torch.randint(11, (2, 12))
    before = network(x)
    for t in (3, 11):
        changed = x.clone()
        changed[:, t] = (changed[:, t] + 1) % 11
        after = network(changed)
        torch.testing.assert_close(after[:, :, :t], before[:, :, :t], rtol=0, atol=1e-12)
        assert not torch.allclose(after[:, :, t:], before[:, :, t:])


def test_attention_is_that_of_its_formula():
    block = transformer(1, 8, 2, input_shape=(5,), num_classes=3)[1].double().eval()
    x = torch.randn(1, 5, 8, dtype=torch.float64)
    q, k, v = block.qkv(x)[0].split(8, 1)
    mixed = torch.zeros(5, 8, dtype=torch.float64)
    for head in (slice(0, 4), slice(4, 8)):
        for t in range(5):
            scores = torch.stack([q[t, head] @ k[s, head] / 2 for s in range(t + 1)])
            mixed[t, head] = torch.softmax(scores, 0) @ v[: t + 1, head]
    torch.testing.assert_close(block._attention(x)[0], mixed)


def test_dropout_is_off_in_evaluation_and_on_in_training():
    network = transformer(1, 8, 2, 0.5, input_shape=(5,), num_classes=3)
    x = torch.randint(3, (2, 5))
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: cnn(input_shape=(784,)), "model: got cnn; it is for images [channels, height, width], not [784]"),
        (
            lambda: resnet(input_shape=(28, 28)),
            "model: got resnet; it is for images [channels, height, width], not [28, 28]",
        ),
        (lambda: vgg(input_shape=(16,)), "model: got vgg; it is for images [channels, height, width], not [16]"),
        (lambda: resnet(depth=9), "depth: got 9; allowed: 6n + 2, such as 8, 14, 20"),
        (lambda: resnet(depth=2), "depth: got 2; allowed: 6n + 2, such as 8, 14, 20"),
        (
            lambda: transformer(input_shape=(1, 28, 28)),
            "model: got transformer; it is for sequences of tokens [time], not [1, 2",
        ),
        (lambda: transformer(width=10, heads=4), "heads: got 4; allowed: a divisor of the width, 10"),
        (lambda: MODELS["vgg"].filled({"depth": 12}), "depth: got 12; allowed: 11, 13, 16, 19"),
        (
            lambda: MODELS["cnn"].filled({"dropout": 1.0}),
            "dropout: got 1.0; allowed: a finite number of at least 0 and below 1",
        ),
        (lambda: MODELS["vgg"].filled({"width": "wide"}), "width: got wide; allowed: a whole number of at least 1"),
        (
            lambda: MODELS["transformer"].filled({"layers": 3}),
            "layers: got 3; transformer takes depth, width, heads, dropout",
        ),
    ],
)
def test_what_a_network_can_not_be_made_of_is_refused(make, said):
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("method", ["backprop", "cdni"])
@pytest.mark.parametrize("name", list(MODELS))
def test_every_cut_of_a_reference_network_trains(name, method):
    """A worker a block, in this process."""
    text, images = (
        (torch.randint(5, (12, 6)), torch.randint(5, (12, 6))),
        (torch.rand(12, 1, 8, 8), torch.randint(5, (12,))),
    )
    x, target = text if name == "transformer" else images
    spec = MODELS[name]
    settings = {"width": 8} if "width" in spec.settings else {}
    model = spec.make(**settings, input_shape=x.shape[1:], num_classes=5)
    result = Trainer(model, workers=len(model), method=method, batch_size=6, serial=True).fit((x, target), steps=2)
    assert [worker["updates"] for worker in result.summary["workers"]] == [2] * len(model)
    assert not torch.equal(
        nn.utils.parameters_to_vector(result.model.parameters()), nn.utils.parameters_to_vector(model.parameters())
    )
