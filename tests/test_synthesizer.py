import pytest
import torch
from torch import nn

from async_dni import (
    ConfigError,
    ConvSynthesizer,
    LinearSynthesizer,
    LowRankSynthesizer,
    MLPSynthesizer,
    PositionwiseSynthesizer,
    Trainer,
)
from async_dni.learning.condition import hot, in_rows
from async_dni.learning.synthesizers import make_synthesizer, synthesizer_choices
from async_dni.learning.synthesizers.low_rank import default_rank

ROWS, CLASSES = 6, 3
CASES = [
    ((5,), ()),
    ((5,), (8, 7)),
    ((2, 3), ()),
    ((2, 3), (8,)),
    ((2, 4, 4), ()),
    ((2, 4, 4), (3,)),
]
labels = torch.tensor([0, 1, 2, 0, 1, 2])
every_kind = pytest.mark.parametrize(("features", "hidden"), CASES)
seeing_labels_or_not = pytest.mark.parametrize("classes", [0, CLASSES])


def condition(classes, target=labels):
    return target if classes else None


def trained(synthesizer):
    """With weights other than zero."""
    for parameter in synthesizer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return synthesizer


@every_kind
@seeing_labels_or_not
def test_the_first_prediction_is_zero_and_shaped_like_h(features, hidden, classes):
    h = torch.randn(ROWS, *features)
    out = make_synthesizer(features, hidden, classes)(h, condition(classes))
    assert torch.equal(out, torch.zeros_like(h))


@every_kind
@seeing_labels_or_not
def test_the_zero_start_can_be_learnt_away(features, hidden, classes):
    synthesizer = make_synthesizer(features, hidden, classes)
    h = torch.randn(ROWS, *features)
    target = torch.randn_like(h)
    optimizer = torch.optim.Adam(synthesizer.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = (synthesizer(h, condition(classes)) - target).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    assert all((parameter != 0).any() for parameter in synthesizer.parameters())


@every_kind
def test_a_conditioned_prediction_depends_on_its_own_label_and_h(features, hidden):
    synthesizer = trained(make_synthesizer(features, hidden, CLASSES)).eval()
    h = torch.randn(ROWS, *features)
    out = synthesizer(h, condition(CLASSES))
    other_label, other_h = labels.clone(), h.clone()
    other_label[2] = 0
    other_h[2] += 1
    for changed in (synthesizer(h, condition(CLASSES, other_label)), synthesizer(other_h, condition(CLASSES))):
        rows = (changed - out).abs().flatten(1).amax(1) > 1e-4
        assert rows.tolist() == [False, False, True, False, False, False]


def test_linear_is_the_papers_equation():
    synthesizer = trained(LinearSynthesizer((2, 3), CLASSES))
    h, y = torch.randn(ROWS, 2, 3), condition(CLASSES)
    assert synthesizer.linear.bias is None
    expected = h.view(ROWS, 6) @ synthesizer.linear.weight.T + hot(y, CLASSES, h.dtype) @ synthesizer.condition.weight
    torch.testing.assert_close(synthesizer(h, y), expected.view(ROWS, 2, 3))


def test_low_rank_is_a_product_through_a_code_and_a_row_of_each_label():
    synthesizer = trained(LowRankSynthesizer((2, 8), CLASSES, rank=2))
    h, y = torch.randn(ROWS, 2, 8), condition(CLASSES)
    down, up = synthesizer.down.weight, synthesizer.up.weight
    assert (down.shape, up.shape) == ((2, 16), (16, 2 + CLASSES))
    expected = h.view(ROWS, 16) @ down.T @ up[:, :2].T + up[:, 2:].T[y]
    torch.testing.assert_close(synthesizer(h, y), expected.view(ROWS, 2, 8))


def test_what_a_low_rank_synthesizer_remembers_of_a_prediction_is_not_used_when_it_has_changed():
    synthesizer, grad = trained(LowRankSynthesizer((4,), CLASSES, rank=2)), torch.randn(ROWS, 4)
    h, other = torch.randn(ROWS, 4), torch.randn(ROWS, 4)
    others = (labels + 1) % CLASSES

    def gradients(*predicted):
        with torch.no_grad():
            for one, seen in predicted:
                synthesizer(one, seen)
        synthesizer.set_gradients(h, labels, grad)
        return synthesizer.up.weight.grad

    for predicted in (((h, labels),), ((h, others),), ((other, labels),), ((h, labels), (other, labels))):
        found = gradients(*predicted)
        assert torch.equal(found, gradients())


@pytest.mark.parametrize(
    ("size", "rank"),
    [(1, 1), (5, 4), (64, 16), (256, 16), (1000, 16), (1024, 32), (6272, 64), (2**17, 64), (802_816, 8), (2**25, 1)],
)
def test_rank_by_size(size, rank):
    assert default_rank(size) == rank


def test_mlp_sees_h_and_the_label_side_by_side():
    synthesizer = trained(MLPSynthesizer((5,), (8,), CLASSES))
    h, y = torch.randn(ROWS, 5), condition(CLASSES)
    (linear, norm, relu), output = synthesizer.layers[0], synthesizer.layers[1]
    expected = output(relu(norm(torch.cat((h, hot(y, CLASSES, h.dtype)), 1) @ linear.weight.T)))
    torch.testing.assert_close(synthesizer(h, y), expected)


def test_convolutional_sees_the_label_as_constant_planes():
    synthesizer = trained(ConvSynthesizer((2, 4, 4), (), CLASSES))
    h = torch.randn(ROWS, 2, 4, 4)
    planes = torch.zeros(ROWS, CLASSES, 4, 4)
    for row, label in enumerate(labels):
        planes[row, label] = 1
    expected = synthesizer.layers(torch.cat((h, planes), 1))
    torch.testing.assert_close(synthesizer(h, condition(CLASSES)), expected)


@pytest.mark.parametrize(
    ("features", "hidden", "kind"),
    [
        ((5,), (), LowRankSynthesizer),
        ((5,), (4,), MLPSynthesizer),
        ((4, 5), (), PositionwiseSynthesizer),
        ((2, 4, 4), (), LowRankSynthesizer),
        ((2, 4, 4), (3,), ConvSynthesizer),
    ],
)
def test_the_default_follows_the_shape_of_h(features, hidden, kind):
    assert type(make_synthesizer(features, hidden, CLASSES)) is kind


@every_kind
@seeing_labels_or_not
def test_a_prediction_leaves_h_as_it_was(features, hidden, classes):
    h = torch.randn(ROWS, *features)
    before = h.clone()
    trained(make_synthesizer(features, hidden, classes))(h, condition(classes))
    assert torch.equal(h, before)


@pytest.mark.parametrize("classes", [3, 2000])
def test_hot_rows(classes):
    rows = hot(torch.tensor([[2, 0], [-1, 1]]), classes, torch.float32)
    assert (rows.shape, rows.dtype) == ((2, 2, classes), torch.float32)
    assert rows[:, :, :3].tolist() == [[[0, 0, 1], [1, 0, 0]], [[0, 0, 0], [0, 1, 0]]]
    assert rows[:, :, 3:].count_nonzero() == 0
    rows.fill_(5)  # they are one's own
    assert hot(torch.tensor([1]), classes, torch.float64)[0, :2].tolist() == [0, 1]
    assert hot(torch.tensor([1]), classes, torch.float32)[0, :2].tolist() == [0, 1]


@pytest.mark.parametrize("classes", [0, 10])
@pytest.mark.parametrize("features", [(6,), (2, 3, 4)])
@pytest.mark.parametrize("kind", [LinearSynthesizer, LowRankSynthesizer])
def test_a_synthesizer_s_own_gradients_are_those_of_autograd(kind, features: tuple[int, ...], classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    synthesizer = trained(kind(features, classes))
    h, grad_output = (torch.randn(7, *features, generator=generator) for _ in range(2))
    labels = torch.tensor([1, 1, 0, 9, 3, 3, 3]) if classes else None
    synthesizer(h, labels).backward(grad_output)
    expected = {name: parameter.grad.clone() for name, parameter in synthesizer.named_parameters()}
    synthesizer.zero_grad()
    with torch.no_grad():
        synthesizer(h, labels)
    synthesizer.set_gradients(h, labels, grad_output)
    assert expected.keys() == {name for name, parameter in synthesizer.named_parameters() if parameter.grad is not None}
    for name, parameter in synthesizer.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


@pytest.mark.parametrize(
    ("seen", "width"),
    [
        (None, 0),
        (torch.tensor([0, 2, 1, 1]), 3),
        (torch.tensor([[0, 2, 1], [1, -1, 0], [2, 2, 2], [-1, -1, -1]]), 3),
        (torch.randn(4, 2, generator=torch.Generator().manual_seed(1)), 2),
        (torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(2)), 2),
    ],
    ids=["nothing", "a class a sample", "a class a position", "numbers a sample", "numbers a position"],
)
@pytest.mark.parametrize("rank", [None, 2])
def test_positionwise_is_the_same_at_each_position(rank: int | None, seen: torch.Tensor | None, width: int) -> None:
    synthesizer = trained(PositionwiseSynthesizer((3, 5), (), width, rank))
    h = torch.randn(4, 3, 5)
    of_each = None
    if seen is not None:
        rows = in_rows(seen, width, h.dtype)
        of_each = (rows.unsqueeze(1).expand(-1, 3, -1) if rows.dim() == 2 else rows).reshape(12, width)
    expected = synthesizer.each(h.view(12, 5), of_each).view_as(h)
    torch.testing.assert_close(synthesizer(h, seen), expected)
    gradient = torch.randn_like(h)
    synthesizer(h, seen).backward(gradient)
    by_autograd = {name: parameter.grad.clone() for name, parameter in synthesizer.named_parameters()}
    for predicts in (False, True):  # before, as a method does, which is then not computed again
        synthesizer.zero_grad()
        with torch.no_grad():
            synthesizer(torch.randn(4, 3, 5), seen)
            if predicts:
                synthesizer(h, seen)
        synthesizer.set_gradients(h, seen, gradient)
        for name, parameter in synthesizer.named_parameters():
            torch.testing.assert_close(parameter.grad, by_autograd[name], msg=name)


def test_what_positions_have_of_the_condition_is_computed_once_to_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    synthesizer, h, counted = PositionwiseSynthesizer((3, 5), (), 3), torch.randn(2, 3, 5), []
    code = LowRankSynthesizer._code
    monkeypatch.setattr(LowRankSynthesizer, "_code", lambda *given: counted.append(1) or code(*given))
    labels = torch.tensor([0, 2])
    with torch.no_grad():
        synthesizer(h, labels)
    synthesizer.set_gradients(h, labels, torch.randn(2, 3, 5))
    assert len(counted) == 1


def test_size_of_a_synthesizer_does_not_grow_with_positions() -> None:
    def size(features: tuple[int, ...], **settings: object) -> int:
        return sum(p.numel() for p in make_synthesizer(features, (), 3, **settings).parameters())

    assert size((10, 8)) == size((1000, 8)) == 8 * 8 + (8 + 3) * 8
    maps = {"channels_first": True, "name": "convolutional"}
    assert size((8, 10), **maps) == size((8, 1000), **maps)
    assert size((8, 4, 4), **maps) == size((8, 400, 400), **maps)
    assert size((8, 4, 4, 4), **maps) == size((8, 9, 9, 9), **maps)


@pytest.mark.parametrize("features", [(2, 7), (2, 4, 3), (2, 3, 3, 3)])
def test_convolutional_sees_a_class_at_its_position(features: tuple[int, ...]) -> None:
    synthesizer = trained(make_synthesizer(features, (), 3, "convolutional", channels_first=True))
    h, at = torch.randn(2, *features), torch.randint(0, 3, (2, *features[1:]))
    planes = torch.cat((h, hot(at, 3, h.dtype).movedim(-1, 1)), 1)
    torch.testing.assert_close(synthesizer(h, at), synthesizer.layers(planes))
    assert synthesizer(h, torch.rand(2, *features[1:], 3)).shape == h.shape
    assert synthesizer(h, torch.rand(2, 3)).shape == h.shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("features", "hidden"), [((5,), ()), ((5,), (8,)), ((3, 5), ()), ((2, 4, 4), ())])
def test_synthesizers_compute_in_the_type_of_h(features, hidden, dtype) -> None:
    synthesizer = make_synthesizer(features, hidden, CLASSES).to(dtype)
    assert synthesizer(torch.randn(ROWS, *features).to(dtype), labels).dtype == dtype


def test_choices_are_named_with_their_settings() -> None:
    first, second = synthesizer_choices("mlp:hidden=8x4,convolutional:kernel=3:hidden=6")
    assert (first.name, first.hidden, first.settings) == ("mlp", (8, 4), {})
    assert (second.name, second.hidden, second.settings) == ("convolutional", (6,), {"kernel": 3})
    assert second.make((2, 5, 5), (), 0).layers[0][0].kernel_size == (3, 3)
    assert first.make((5,), (100,), 0).layers[0][0].out_features == 8
    for text, sentence in (
        ("none", "allowed: convolutional, positionwise, low-rank, linear, mlp"),
        ("linear:hidden=4", "linear takes no settings"),
        ("mlp:width=4", "mlp takes hidden="),
        ("convolutional:kernel", "convolutional takes hidden=…, kernel=…"),
        ("convolutional:kernel=x", "kernel=x: allowed: whole numbers"),
        ("convolutional:kernel=3x3", "kernel=3x3: allowed: one number"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            synthesizer_choices(text)


def test_each_boundary_may_have_its_own() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(32, 3))
    data = torch.randn(20, 1, 6, 6), torch.randint(0, 3, (20,))
    settings = {"split": (1, 2), "batch_size": 10, "synthesizer": "convolutional:kernel=1,mlp:hidden=4"}
    _, stages, _ = Trainer(model, **settings).cut(data)
    assert stages[0].synthesizer.layers[0].kernel_size == (1, 1)
    assert stages[1].synthesizer.layers[0][0].out_features == 4
    with pytest.raises(ConfigError, match="3 workers have 2 boundaries; allowed: one for all, or one for each"):
        Trainer(model, split=(1, 2), synthesizer="linear,linear,linear")
    with pytest.raises(ConfigError, match="where each boundary has its own, allowed: with --split"):
        Trainer(model, synthesizer="linear,linear")


def test_hidden_widths_of_a_method_are_for_vectors() -> None:
    """1024 channels at every position would take minutes a batch."""
    data = torch.randn(20, 1, 6, 6), torch.randint(0, 3, (20,))
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    _, (first, second, _), _ = Trainer(model, split=(1, 2), batch_size=10, method="dni").cut(data)
    assert [layer[0].out_channels for layer in first.synthesizer.layers[:-1]] == [4, 4]
    assert [layer[0].out_features for layer in second.synthesizer.layers[:-1]] == [1024, 1024]
    _, (first, _), _ = Trainer(model, workers=2, split=(1,), batch_size=10, method="dni", synthesizer_hidden=(7,)).cut(
        data
    )
    assert [layer[0].out_channels for layer in first.synthesizer.layers[:-1]] == [7]
