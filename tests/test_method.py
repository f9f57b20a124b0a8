import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from async_dni.learning.methods.loss_gradient import LossGradient
from async_dni.learning.methods.synthetic_gradient import SyntheticGradient
from async_dni.learning.methods.true_gradient import TrueGradient
from async_dni.learning.synthesizers import make_synthesizer

ROWS, FEATURES, CLASSES = 6, 5, 3
target = torch.tensor([0, 1, 2, 2, 1, 0])


class Spy(nn.Module):
    """A synthesizer that keeps the conditions it was given."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((FEATURES,), 0.5))
        self.conditions = []

    def forward(self, h, condition):
        self.conditions.append(condition)
        return h * self.weight


class Echo(nn.Module):
    """A synthesizer that returns h itself."""

    def forward(self, h, condition):
        return h


class Constant(nn.Module):
    """A synthesizer that returns its parameter, whatever h."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.ones(ROWS, FEATURES))

    def forward(self, h, condition):
        return self.value


def synthetic(hidden=(), classes=CLASSES, lr=0.1):
    synthesizer = make_synthesizer((FEATURES,), hidden, classes)
    for parameter in synthesizer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return SyntheticGradient(
        synthesizer, torch.optim.SGD(synthesizer.parameters(), lr), conditioned=classes > 0, precision=None
    )


def gradients(method):
    return [parameter.grad.clone() for parameter in method.model.parameters()]


def test_loss_gradient_is_autograds():
    logits = torch.randn(ROWS, CLASSES)
    method = LossGradient(nn.CrossEntropyLoss())
    expected = (logits.softmax(1) - F.one_hot(target, CLASSES)) / ROWS
    torch.testing.assert_close(method.now(logits, target), expected)
    torch.testing.assert_close(method.loss, -logits.log_softmax(1)[range(ROWS), target].mean())
    assert not method.loss.requires_grad
    assert not logits.requires_grad


def test_nothing_comes_back_to_the_loss():
    with pytest.raises(RuntimeError, match="no stage"):
        LossGradient(F.cross_entropy).learn(torch.zeros(1, 2), torch.zeros(1), torch.zeros(1, 2))


def test_true_gradient_waits():
    assert TrueGradient().waits
    assert TrueGradient().now(torch.zeros(1), torch.zeros(1)) is None


def test_the_others_do_not_wait():
    assert not LossGradient(F.cross_entropy).waits
    assert not synthetic().waits


@pytest.mark.parametrize("method", [TrueGradient(), LossGradient(F.cross_entropy)])
def test_methods_without_weights_have_an_empty_state(method):
    method.load_state_dict(method.state_dict())
    assert method.state_dict() == {}


@pytest.mark.parametrize(("hidden", "classes"), [((), 0), ((), CLASSES), ((8,), 0), ((8,), CLASSES)])
def test_a_synthetic_gradient_is_the_per_sample_prediction_over_the_rows(hidden, classes):
    method = synthetic(hidden, classes)
    h = torch.randn(ROWS, FEATURES)
    condition = target if classes else None
    gradient = method.now(h, target)
    torch.testing.assert_close(gradient * ROWS, method.model(h, condition).detach())
    assert not gradient.requires_grad


def test_the_synthesizer_sees_labels_only_where_it_has_classes():
    for classes in (0, CLASSES):
        spy = Spy()
        method = SyntheticGradient(spy, torch.optim.SGD(spy.parameters(), 0.1), conditioned=classes > 0, precision=None)
        h = torch.randn(ROWS, FEATURES)
        method.now(h, target)
        method.learn(h, target, h)
        for condition in spy.conditions:
            if classes:
                assert torch.equal(condition, target)
            else:
                assert condition is None
        assert len(spy.conditions) == 2


def test_without_labels_targets_may_be_anything():
    method = synthetic(classes=0)
    h, values = torch.randn(ROWS, FEATURES), torch.randn(ROWS, 2)
    method.now(h, values)
    method.learn(h, values, torch.randn_like(h))


@pytest.mark.parametrize(("hidden", "classes"), [((), 0), ((), CLASSES), ((8,), 0), ((8,), CLASSES)])
def test_learning_is_a_step_on_the_squared_error_summed_over_features_and_averaged_over_the_batch(hidden, classes):
    method, reference = synthetic(hidden, classes, lr=0.01), synthetic(hidden, classes, lr=0.01)
    reference.load_state_dict(copy.deepcopy(method.state_dict()))
    h, delta = torch.randn(ROWS, FEATURES), torch.randn(ROWS, FEATURES)
    condition = target if classes else None
    loss = (reference.model(h, condition) - ROWS * delta).square().sum(1).mean()
    reference.optimizer.zero_grad()
    loss.backward()
    reference.optimizer.step()
    method.learn(h, target, delta)
    torch.testing.assert_close(method.loss, loss.detach())
    for actual, expected in zip(method.model.parameters(), reference.model.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_learning_forgets_the_gradient_of_the_step_before():
    method = synthetic(lr=0.0)
    h, delta = torch.randn(ROWS, FEATURES), torch.randn(ROWS, FEATURES)
    method.learn(h, target, delta)
    first = gradients(method)
    method.learn(h, target, delta)
    torch.testing.assert_close(gradients(method), first)


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_the_step_of_a_batch_given_twice_is_that_of_the_batch(hidden):
    once = synthetic(hidden)
    twice = synthetic(hidden)
    twice.load_state_dict(copy.deepcopy(once.state_dict()))
    h, delta = torch.randn(ROWS, FEATURES), torch.randn(ROWS, FEATURES)
    once.learn(h, target, delta)
    # the gradient of a mean over twice the samples is half as large for each
    twice.learn(h.repeat(2, 1), target.repeat(2), delta.repeat(2, 1) / 2)
    torch.testing.assert_close(once.loss, twice.loss)
    torch.testing.assert_close(gradients(once), gradients(twice), rtol=1e-4, atol=1e-5)


def test_learning_leaves_h_and_the_gradient_as_they_were():
    h, delta = torch.randn(ROWS, FEATURES), torch.randn(ROWS, FEATURES)
    before = h.clone(), delta.clone()
    synthetic().learn(h, target, delta)
    assert torch.equal(h, before[0])
    assert torch.equal(delta, before[1])


def test_a_synthesizer_that_returns_h_does_not_get_h_divided():
    h = torch.randn(ROWS, FEATURES)
    before = h.clone()
    echo = Echo()
    gradient = SyntheticGradient(
        echo, torch.optim.SGD([nn.Parameter(h.clone())], 0.1), conditioned=False, precision=None
    ).now(h, target)
    torch.testing.assert_close(gradient, before / ROWS)
    assert torch.equal(h, before)


def test_a_synthesizer_that_returns_a_parameter_does_not_get_it_divided():
    constant = Constant()
    method = SyntheticGradient(constant, torch.optim.SGD(constant.parameters(), 0.1), conditioned=False, precision=None)
    gradient = method.now(torch.randn(ROWS, FEATURES), target)
    torch.testing.assert_close(gradient, torch.full((ROWS, FEATURES), 1 / ROWS))
    assert torch.equal(constant.value, torch.ones(ROWS, FEATURES))


def test_a_network_of_doubles_can_be_conditioned():
    synthesizer = make_synthesizer((FEATURES,), (), CLASSES).double()
    method = SyntheticGradient(
        synthesizer, torch.optim.SGD(synthesizer.parameters(), 0.1), conditioned=True, precision=None
    )
    h = torch.randn(ROWS, FEATURES, dtype=torch.float64)
    method.learn(h, target, h)
    assert method.now(h, target).dtype == torch.float64


def test_a_restored_synthesizer_goes_on_the_same():
    method = synthetic()
    method.optimizer = torch.optim.Adam(method.model.parameters(), 0.01)
    restored = synthetic()
    restored.optimizer = torch.optim.Adam(restored.model.parameters(), 0.01)
    batches = [(torch.randn(ROWS, FEATURES), torch.randn(ROWS, FEATURES)) for _ in range(4)]
    for h, delta in batches[:2]:
        method.learn(h, target, delta)
    restored.load_state_dict(copy.deepcopy(method.state_dict()))
    for h, delta in batches[2:]:
        method.learn(h, target, delta)
        restored.learn(h, target, delta)
        assert torch.equal(method.loss, restored.loss)
    assert torch.equal(method.now(batches[0][0], target), restored.now(batches[0][0], target))
