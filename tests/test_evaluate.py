import json
from functools import partial

import pytest
import torch
from noisy import Noisy
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from async_dni import Evaluation, evaluate, fcn
from async_dni.learning.random_state import RandomState
from async_dni.record.evaluate import error_percent, score
from async_dni.record.scores.collected import Collected

SAMPLES, FEATURES, CLASSES = 23, 4, 3


def classes():
    return TensorDataset(torch.randn(SAMPLES, FEATURES), torch.randint(CLASSES, (SAMPLES,)))


def small_model():
    return fcn(2, 8, input_shape=(FEATURES,), num_classes=CLASSES)


@pytest.mark.parametrize("batch_size", [1, 5, 23, 1000])
def test_loss_and_confusion_are_those_of_the_whole_set_for_every_batch_size(batch_size):
    model, dataset = small_model(), classes()
    loss, confusion = evaluate(model, dataset, nn.CrossEntropyLoss(), batch_size)
    x, target = dataset.tensors
    output = model.eval()(x).detach()
    expected = [[0] * CLASSES for _ in range(CLASSES)]
    for truth, predicted in zip(target.tolist(), output.argmax(1).tolist(), strict=True):
        expected[truth][predicted] += 1
    assert loss == pytest.approx(float(F.cross_entropy(output, target)), rel=1e-5)
    assert confusion == expected
    assert error_percent(confusion) == pytest.approx(100 * float((output.argmax(1) != target).float().mean()), rel=1e-5)


def test_evaluating_changes_no_weight_and_no_statistics():
    model, dataset = small_model().train(), classes()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, dataset, nn.CrossEntropyLoss(), 5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_drawn_depends_on_the_seed_and_disturbs_nobody():
    model, dataset = nn.Sequential(Shaken(), nn.Linear(6, 2)), Noisy()
    torch.manual_seed(1)
    before = RandomState.capture().as_dict()
    scores = [score(model, dataset, nn.CrossEntropyLoss(), {}, batch_size=10, seed=seed) for seed in (3, 3, 4)]
    assert scores[0] == scores[1]
    assert scores[0].loss != scores[2].loss
    assert all(torch.equal(state, before[name]) for name, state in RandomState.capture().as_dict().items())


class Shaken(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


def test_targets_that_are_not_classes_have_a_loss_and_no_confusion():
    dataset = TensorDataset(torch.randn(SAMPLES, FEATURES), torch.randn(SAMPLES, 2))
    model = nn.Linear(FEATURES, 2)
    loss, confusion = evaluate(model, dataset, nn.MSELoss(), 5)
    assert loss == pytest.approx(float(F.mse_loss(model(dataset.tensors[0]).detach(), dataset.tensors[1])), rel=1e-5)
    assert confusion is None
    assert error_percent(confusion) is None


def test_targets_that_are_numbers_are_not_taken_for_classes():
    dataset = TensorDataset(torch.randn(SAMPLES, FEATURES), torch.rand(SAMPLES))

    def loss_fn(output, target):
        return F.mse_loss(output[:, 0], target)

    assert evaluate(nn.Linear(FEATURES, 1), dataset, loss_fn)[1] is None


@pytest.mark.parametrize(
    ("confusion", "error"),
    [([[5, 0], [0, 3]], 0), ([[0, 5], [3, 0]], 100), ([[3, 1], [0, 0]], 25), ([[1, 1, 0], [0, 2, 1], [2, 0, 1]], 50)],
)
def test_the_error_is_what_is_off_the_diagonal(confusion, error):
    assert error_percent(confusion) == error


def test_an_evaluation_is_a_json_object():
    evaluation = Evaluation(4, 0.5, 1.25, 2.5, 0.1, [[1, 0], [0, 1]])
    assert Evaluation(**json.loads(json.dumps(evaluation.as_dict()))) == evaluation


def test_an_evaluation_that_nobody_waits_for_any_more_ends_at_the_next_batch():
    batches = []

    def give_up():
        batches.append(None)
        if len(batches) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(small_model(), classes(), nn.CrossEntropyLoss(), 5, before_batch=give_up)
    assert len(batches) == 3


LOSSES = {
    "classes": nn.CrossEntropyLoss(),
    "weights": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.1])),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.2),
    "weights, smoothed": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.1]), label_smoothing=0.2),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "ignored": nn.CrossEntropyLoss(ignore_index=1),
    "ignored, weights, smoothed": nn.CrossEntropyLoss(
        ignore_index=1, weight=torch.tensor([1.0, 5.0, 0.1]), label_smoothing=0.1
    ),
    "nll": nn.NLLLoss(weight=torch.tensor([1.0, 5.0, 0.1])),
    "a function": F.cross_entropy,
    "a partial": partial(F.cross_entropy, label_smoothing=0.1),
    "margin": nn.MultiMarginLoss(),
    "one's own": lambda output, target: F.cross_entropy(output, target, weight=torch.tensor([1.0, 5.0, 0.1])),
}
LOSSES_OF_NUMBERS = {
    "mse": nn.MSELoss(),
    "mse, sum": nn.MSELoss(reduction="sum"),
    "l1": nn.L1Loss(),
    "smooth l1": nn.SmoothL1Loss(beta=0.5),
    "huber": nn.HuberLoss(delta=0.3),
    "logits": nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0, 3.0]), weight=torch.tensor([1.0, 0.5, 2.0])),
    "soft labels": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.1]), label_smoothing=0.1),
    "soft margin": nn.SoftMarginLoss(),
    "poisson": nn.PoissonNLLLoss(),
    "kl": nn.KLDivLoss(),
    "kl, batchmean": nn.KLDivLoss(reduction="batchmean"),
    "one's own": lambda output, target: (output - target).square().mean().sqrt(),
}


def whole(model, dataset, loss_fn):
    with torch.no_grad():
        return float(loss_fn(model.eval()(dataset.tensors[0]), dataset.tensors[1]))


@pytest.mark.parametrize("batch_size", [1, 4, 7])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_of_labels_is_that_of_one_call_on_the_whole_set(name, batch_size):
    x, target = classes().tensors
    dataset = TensorDataset(x, target.sort().values)  # batches differ as much as they can
    model = nn.Sequential(small_model(), nn.LogSoftmax(1)) if name == "nll" else small_model()
    loss = evaluate(model, dataset, LOSSES[name], batch_size)[0]
    assert loss == pytest.approx(whole(model, dataset, LOSSES[name]), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 7])
@pytest.mark.parametrize("name", LOSSES_OF_NUMBERS)
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss")
def test_loss_of_numbers_is_that_of_one_call_on_the_whole_set(name, batch_size):
    target = torch.softmax(torch.randn(SAMPLES, CLASSES), 1) * torch.linspace(0.1, 1, SAMPLES)[:, None]
    dataset, model = TensorDataset(torch.randn(SAMPLES, FEATURES), target), small_model()
    loss = evaluate(model, dataset, LOSSES_OF_NUMBERS[name], batch_size)[0]
    assert loss == pytest.approx(whole(model, dataset, LOSSES_OF_NUMBERS[name]), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 7])
@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(ignore_index=0), nn.BCELoss(), nn.MSELoss(reduction="sum")])
def test_loss_and_error_of_positions(loss_fn, batch_size):
    class Positions(nn.Module):
        def forward(self, x):
            return torch.sigmoid(x)

    labels = isinstance(loss_fn, nn.CrossEntropyLoss)
    target = torch.randint(CLASSES, (SAMPLES, 5)) if labels else torch.rand(SAMPLES, CLASSES, 5)
    if labels:
        target[:8] = 0  # batches of which every label is ignored
    dataset, model = TensorDataset(torch.randn(SAMPLES, CLASSES, 5), target), Positions()
    found = score(model, dataset, loss_fn, {}, batch_size=batch_size)
    assert found.loss == pytest.approx(whole(model, dataset, loss_fn), rel=1e-6)
    if labels:
        wrong = (dataset.tensors[0].argmax(1) != target)[target != 0]
        assert found.error == pytest.approx(100 * float(wrong.float().mean()), rel=1e-5)
        assert error_percent(found.confusion) == found.error
        assert sum(map(sum, found.confusion)) == wrong.numel()


def test_of_many_classes_there_is_an_error_and_no_table():
    output = torch.randn(10, 2000)
    dataset = TensorDataset(output, torch.cat([output[:7].argmax(1), output[7:].argmin(1)]))
    found = score(nn.Identity(), dataset, nn.CrossEntropyLoss(), {}, batch_size=3)
    assert found.error == 30
    assert found.confusion is None


def rms(outputs, targets):
    return (outputs - targets).square().mean().sqrt()


def test_what_does_not_fit_is_averaged_over_batches():
    output, target = torch.randn(5, 2), torch.randn(5, 2)
    for most, expected in (
        (200, float(rms(output, target))),
        (79, (2 * float(rms(output[:2], target[:2])) + 3 * float(rms(output[2:], target[2:]))) / 5),
    ):
        collected = Collected({"rms": rms}, most)
        collected.add(output[:2], target[:2])
        collected.add(output[2:], target[2:])
        assert collected.values() == pytest.approx({"rms": expected})
        assert collected.is_whole == (most == 200)


def test_sequences_of_several_lengths_are_averaged_over_batches():
    collected = Collected({"rms": rms})
    collected.add(torch.ones(3, 2), torch.zeros(3, 2))
    collected.add(torch.ones(1, 7), torch.full((1, 7), 3.0))
    assert collected.values() == {"rms": (3 * 1 + 2) / 4}
