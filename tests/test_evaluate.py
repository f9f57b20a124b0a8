import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from async_dni import Evaluation, evaluate, fcn
from async_dni.record.evaluate import error_percent

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
