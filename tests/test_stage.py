import copy
import pickle
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from async_dni import fcn
from async_dni.learning.batch import Batch
from async_dni.learning.methods import Method
from async_dni.learning.methods.cdni import CDNI
from async_dni.learning.methods.delayed import DELAYED
from async_dni.learning.methods.dni import DNI
from async_dni.learning.methods.loss_gradient import LossGradient
from async_dni.learning.methods.synthetic_gradient import SyntheticGradient
from async_dni.learning.methods.true_gradient import TrueGradient
from async_dni.learning.stage import Stage, StageSpec
from async_dni.learning.synthesizers import make_synthesizer
from async_dni.network.partition import partition

FEATURES, WIDTH, CLASSES, ROWS = 12, 16, 5, 8
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=1e-3, fused=True)
synthesizers = pytest.mark.parametrize(
    ("classes", "hidden"),
    [(CLASSES, ()), (0, ()), (CLASSES, (9,)), (0, (9, 7))],
    ids=["cdni", "dni", "cdni-mlp", "dni-mlp"],
)


def small_network():
    return fcn(layers=3, width=WIDTH, input_shape=(FEATURES,), num_classes=CLASSES)


def small_batch(index=0, rows=ROWS):
    return Batch(index, torch.randn(rows, FEATURES), torch.randint(CLASSES, (rows,)))


def nonzero_synthesizer(width, hidden, classes):
    """Zeros would predict zero, and test nothing."""
    synthesizer = make_synthesizer((width,), hidden, classes)
    for parameter in synthesizer.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.5 / parameter.shape[1] ** 0.5)
        else:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return synthesizer


def spec(index, module, synthesizer=None, optimizer=SGD, classes=0, num_stages=3, lr=None, late=False):
    return StageSpec(
        index,
        num_stages,
        module,
        optimizer,
        nn.CrossEntropyLoss(),
        DELAYED if synthesizer is None else CDNI if classes else DNI,
        synthesizer,
        lr,
        classes,
        None if late else 1,
        synthesizer_matmul_precision="highest",  # as the references multiply
    )


def build(*args, **settings):
    return spec(*args, **settings).build(torch.device("cpu"))


def three_stages(model, synthesizers, optimizer=SGD, classes=0, lr=None):
    """Stages of copies, so that the originals stay for a reference."""
    modules = partition(copy.deepcopy(model), [1, 2])
    return [
        build(k, module, copy.deepcopy(synthesizer), optimizer=optimizer, classes=classes, lr=lr)
        for k, (module, synthesizer) in enumerate(zip(modules, [*synthesizers, None], strict=True))
    ]


def with_sgd_synthesizers(stages, lr=0.05):
    """Adam's step is a sign where a gradient is small: SGD's shows the gradient itself."""
    for stage in stages[:-1]:
        stage.method.optimizer = torch.optim.SGD(stage.method.model.parameters(), lr)
    return stages


def train(stages, batch):
    """One batch down, and every gradient up as soon as there is one."""
    x = batch.x
    for k, stage in enumerate(stages):
        h = stage.forward(Batch(batch.index, x, batch.target))
        grad_input = stage.update(batch.index)
        for above in reversed(stages[:k]):
            if grad_input is not None:
                grad_input = above.learn(batch.index, grad_input)
        x = h


def reference_batch(f, m, f_optimizers, m_optimizers, batch, classes):
    """The five updates of one batch, written out."""
    rows, y = len(batch.x), batch.target
    condition = y if classes else None

    # 1. update f_0 with the synthetic gradient
    h0 = f[0](batch.x)
    delta_hat_0 = m[0](h0.detach(), condition).detach() / rows
    f_optimizers[0].zero_grad()
    h0.backward(delta_hat_0)
    f_optimizers[0].step()

    # 2. update f_1 with its synthetic gradient
    h0 = h0.detach().requires_grad_()
    h1 = f[1](h0)
    delta_hat_1 = m[1](h1.detach(), condition).detach() / rows
    f_optimizers[1].zero_grad()
    h1.backward(delta_hat_1)
    f_optimizers[1].step()

    # 3. regress M_0 on the gradient that came back through f_1
    m_optimizers[0].zero_grad()
    loss_0 = (m[0](h0.detach(), condition) - rows * h0.grad).square().sum(1).mean()
    loss_0.backward()
    m_optimizers[0].step()

    # 4. update the last layer with the gradient of the loss
    h1 = h1.detach().requires_grad_()
    loss = F.cross_entropy(f[2](h1), y)
    f_optimizers[2].zero_grad()
    loss.backward()
    f_optimizers[2].step()

    # 5. regress M_1 on the gradient that came back from the last layer
    m_optimizers[1].zero_grad()
    loss_1 = (m[1](h1.detach(), condition) - rows * h1.grad).square().sum(1).mean()
    loss_1.backward()
    m_optimizers[1].step()
    return [loss_0.detach(), loss_1.detach(), loss.detach()]


def assert_states_close(module, expected, **tolerance):
    actual, wanted = module.state_dict(), expected.state_dict()
    assert list(actual) == list(wanted)
    for name in wanted:
        torch.testing.assert_close(actual[name], wanted[name], **tolerance)


def assert_gradients_close(module, expected, **tolerance):
    for actual, wanted in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, wanted.grad, **tolerance)


def assert_same(state, expected):
    """Equal to the last bit."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(state, expected)
    elif isinstance(expected, dict):
        assert state.keys() == expected.keys()
        for key in expected:
            assert_same(state[key], expected[key])
    elif isinstance(expected, list | tuple):
        for item, wanted in zip(state, expected, strict=True):
            assert_same(item, wanted)
    else:
        assert state == expected


class Fixed(Method):
    """A method whose gradient now is a given one, and which keeps what it learns from."""

    def __init__(self, gradient=None):
        self.gradient, self.waits, self.loss, self.learnt = gradient, gradient is None, None, []

    def now(self, h, target):
        assert not h.requires_grad
        return self.gradient

    def learn(self, h, target, grad_output):
        assert not h.requires_grad
        self.learnt.append((h, target, grad_output))


class Stop(nn.Module):
    """Lets no gradient through to its input."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(FEATURES))

    def forward(self, x):
        return x.detach() + self.bias


# One batch through three stages, against the reference


@synthesizers
def test_a_batch_makes_the_five_updates(classes, hidden):
    f, m = small_network(), [nonzero_synthesizer(WIDTH, hidden, classes) for _ in range(2)]
    stages = with_sgd_synthesizers(three_stages(f, m, classes=classes))
    f_optimizers = [SGD(block.parameters()) for block in f]
    m_optimizers = [torch.optim.SGD(synthesizer.parameters(), 0.05) for synthesizer in m]
    for index in range(3):
        before = copy.deepcopy([*f, *m])
        batch = small_batch(index)
        train(stages, batch)
        losses = reference_batch(f, m, f_optimizers, m_optimizers, batch, classes)
        for k, stage in enumerate(stages):
            assert_states_close(stage.module[0], f[k], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(stage.method.loss, losses[k], rtol=1e-4, atol=1e-5)
        for k in range(2):
            assert_states_close(stages[k].method.model, m[k], rtol=1e-4, atol=1e-5)
        for old, new in zip(before, [*f, *m], strict=True):  # or there was nothing to test
            assert all((a != b).any() for a, b in zip(old.parameters(), new.parameters(), strict=True))


@pytest.mark.parametrize("classes", [10, 0], ids=["cdni", "dni"])
def test_a_batch_of_mnist_makes_the_five_updates_at_full_size(classes, mnist):
    f, m = fcn(), [nonzero_synthesizer(256, () if classes else (64,), classes) for _ in range(2)]
    stages = three_stages(f, m, optimizer=ADAM, classes=classes)
    batch = Batch(0, *mnist[0].get_batch(torch.arange(250)))
    train(stages, batch)
    optimizers = [torch.optim.Adam(module.parameters(), lr=1e-3) for module in [*f, *m]]
    reference_batch(f, m, optimizers[:3], optimizers[3:], batch, classes)
    pairs = [(stage.module, block) for stage, block in zip(stages, f, strict=True)]
    pairs += [(stage.method.model, synthesizer) for stage, synthesizer in zip(stages, m, strict=False)]
    for module, expected in pairs:
        largest = max(float(parameter.grad.abs().max()) for parameter in expected.parameters())
        assert_gradients_close(module, expected, rtol=1e-3, atol=1e-5 * largest)
        for actual, wanted in zip(module.parameters(), expected.parameters(), strict=True):
            # Adam's first step is lr times the sign of the gradient, where the gradient is not lost in rounding
            clear = wanted.grad.abs() > 1e-4 * largest
            torch.testing.assert_close(actual[clear], wanted[clear], rtol=0, atol=1e-5)


@synthesizers
def test_the_synthesizers_step_does_not_depend_on_the_batch_size(classes, hidden):
    f, m = small_network(), [nonzero_synthesizer(WIDTH, hidden, classes) for _ in range(2)]
    once, twice = (three_stages(f, m, classes=classes) for _ in range(2))
    batch = small_batch()
    train(once, batch)
    train(twice, Batch(0, batch.x.repeat(2, 1), batch.target.repeat(2)))
    for k in range(2):
        torch.testing.assert_close(twice[k].method.loss, once[k].method.loss, rtol=1e-4, atol=1e-5)
        assert_gradients_close(twice[k].method.model, once[k].method.model, rtol=1e-4, atol=1e-5)
    for stage, other in zip(twice, once, strict=True):
        assert_gradients_close(stage.module, other.module, rtol=1e-4, atol=1e-6)


@synthesizers
def test_a_synthesizer_predicts_afresh_for_a_gradient_that_comes_late(classes, hidden):
    m = nonzero_synthesizer(FEATURES, hidden, classes)
    stage = build(0, nn.Sequential(nn.Linear(FEATURES, FEATURES)), copy.deepcopy(m), classes=classes)
    with_sgd_synthesizers([stage, None])
    optimizer = torch.optim.SGD(m.parameters(), 0.05)
    batches = [small_batch(index) for index in range(3)]
    outputs = []
    for batch in batches:
        outputs.append(stage.forward(batch))
        stage.update(batch.index)
        m(outputs[-1], batch.target if classes else None)  # batch norm's running statistics
    for batch, h in zip(batches, outputs, strict=True):
        delta = torch.randn_like(h) / ROWS
        stage.learn(batch.index, delta)
        condition = batch.target if classes else None
        loss = (m(h, condition) - ROWS * delta).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert_states_close(stage.method.model, m, rtol=1e-4, atol=1e-5)


# Locked backpropagation


@pytest.mark.parametrize(
    "optimizer",
    [SGD, partial(torch.optim.Adam, lr=1e-3), ADAM, partial(torch.optim.SGD, lr=0.1, weight_decay=0.01)],
    ids=["momentum", "adam", "fused", "decay"],
)
@pytest.mark.parametrize("cuts", [[], [1], [2], [1, 2], [1, 2, 3]])
def test_backprop_in_stages_is_backprop_to_the_last_bit(optimizer, cuts):
    model = fcn(layers=4, width=WIDTH, input_shape=(FEATURES,), num_classes=CLASSES)
    modules = partition(copy.deepcopy(model), cuts)
    stages = [build(k, module, optimizer=optimizer, num_stages=len(modules)) for k, module in enumerate(modules)]
    plain = optimizer(model.parameters())
    for index in range(5):
        batch = small_batch(index)
        train(stages, batch)
        loss = F.cross_entropy(model(batch.x), batch.target)
        plain.zero_grad()
        loss.backward()
        plain.step()
        assert torch.equal(stages[-1].method.loss, loss.detach())
        state = {name: tensor for stage in stages for name, tensor in stage.module.state_dict().items()}
        assert_same(state, dict(model.state_dict()))


def test_backprop_of_mnist_in_stages_is_backprop_to_the_last_bit(mnist):
    model = fcn()
    stages = three_stages(model, [None, None], optimizer=ADAM)
    plain = ADAM(model.parameters())
    for index in range(3):
        batch = Batch(index, *mnist[0].get_batch(torch.arange(250) + 250 * index))
        train(stages, batch)
        plain.zero_grad()
        F.cross_entropy(model(batch.x), batch.target).backward()
        plain.step()
    state = {name: tensor for stage in stages for name, tensor in stage.module.state_dict().items()}
    assert_same(state, dict(model.state_dict()))


def test_a_locked_stage_holds_its_input_until_the_gradient_comes():
    stage = build(1, nn.Sequential(nn.Linear(FEATURES, WIDTH)))
    assert isinstance(stage.method, TrueGradient)
    before = copy.deepcopy(stage.module.state_dict())
    h = stage.forward(small_batch())
    assert stage.update(0) is None
    assert stage.holds_input(0)
    assert stage.weight_version == 0
    assert_same(stage.module.state_dict(), before)
    assert stage.learn(0, torch.ones_like(h)).shape == (ROWS, FEATURES)
    assert not stage.holds_input(0)
    assert stage.weight_version == 1
    assert not stage.pending


def test_a_gradient_that_comes_late_goes_back_through_the_weights_of_now_and_the_activations_of_then():
    a, b = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
    stage = build(1, nn.Sequential(a, nn.Tanh(), b), optimizer=partial(torch.optim.SGD, lr=0.5), late=True)
    late, soon = small_batch(0), small_batch(1)
    for batch in (late, soon):
        stage.forward(batch)
        assert stage.update(batch.index) is None
    hidden_then = torch.tanh(a(late.x)).detach()
    stage.learn(1, torch.randn(ROWS, CLASSES))
    a_now, b_now = a.weight.detach().clone(), b.weight.detach().clone()
    gradient = torch.randn(ROWS, CLASSES)
    given = stage.learn(0, gradient)
    at_hidden = (gradient @ b_now) * (1 - hidden_then**2)
    torch.testing.assert_close(given, at_hidden @ a_now)
    torch.testing.assert_close(a.weight.grad, at_hidden.T @ late.x)
    torch.testing.assert_close(b.weight.grad, gradient.T @ hidden_then)
    assert stage.weight_version == 2


# What a stage keeps and gives


def test_forward_gives_h_without_its_graph_and_leaves_the_batch_as_it_was():
    for k in range(3):
        stage = build(k, nn.Sequential(nn.Linear(FEATURES, CLASSES)), nonzero_synthesizer(CLASSES, (), 0))
        batch = small_batch()
        x = batch.x.clone()
        h = stage.forward(batch)
        assert not h.requires_grad
        torch.testing.assert_close(h, x @ stage.module[0].weight.detach().T + stage.module[0].bias.detach())
        stage.update(0)
        assert torch.equal(batch.x, x)
        assert not batch.x.requires_grad
        assert batch.x.grad is None


def test_the_gradient_given_upstream_is_taken_before_the_step():
    gradient = torch.randn(ROWS, CLASSES)
    module = nn.Sequential(nn.Linear(FEATURES, CLASSES))
    weight = module[0].weight.detach().clone()
    stage = Stage(module, SGD(module.parameters()), Fixed(gradient), is_first=False, is_last=False)
    stage.forward(small_batch())
    torch.testing.assert_close(stage.update(0), gradient @ weight)
    assert not torch.equal(module[0].weight, weight)


@pytest.mark.parametrize(
    ("clip", "is_predicted", "is_scaled"), [(1.0, True, True), (1.0, False, False), (1e6, True, False)]
)
def test_a_prediction_that_is_clipped_is_clipped_upstream_too(clip, is_predicted, is_scaled):
    synthesizer, batch = nonzero_synthesizer(WIDTH, (), CLASSES), small_batch()
    with torch.no_grad():
        synthesizer.up.weight.fill_(1e4)
    found = {}
    for norm in (None, clip):
        torch.manual_seed(1)
        module = nn.Sequential(nn.Linear(FEATURES, WIDTH))
        method = SyntheticGradient(synthesizer, SGD(synthesizer.parameters()), conditioned=True, precision=None)
        fixed = Fixed(method.now(module(batch.x).detach(), batch.target))
        stage = Stage(
            module,
            SGD(module.parameters()),
            method if is_predicted else fixed,
            is_first=False,
            is_last=False,
            clip_grad_norm=norm,
        )
        stage.forward(batch)
        found[norm] = stage.update(0), nn.utils.get_total_norm([p.grad for p in module.parameters()])
    (whole, norm), (clipped, clipped_norm) = found[None], found[clip]
    assert 1.0 < norm < 1e6
    torch.testing.assert_close(clipped_norm, norm.clamp(max=clip))
    torch.testing.assert_close(clipped, whole * (clip / norm) if is_scaled else whole)


def test_a_first_stage_gives_no_gradient():
    module = nn.Sequential(nn.Linear(FEATURES, CLASSES))
    for gradient in (None, torch.ones(ROWS, CLASSES)):
        stage = Stage(module, SGD(module.parameters()), Fixed(gradient), is_first=True, is_last=False)
        stage.forward(small_batch())
        assert stage.update(0) is None
        assert stage.learn(0, torch.ones(ROWS, CLASSES)) is None
        assert stage.weight_version == 1


def test_every_gradient_is_learnt_with_the_h_and_the_targets_of_its_batch():
    module = nn.Sequential(nn.Linear(FEATURES, CLASSES))
    method = Fixed(torch.randn(ROWS, CLASSES))
    stage = Stage(module, SGD(module.parameters()), method, is_first=True, is_last=False)
    batches = [small_batch(index) for index in range(4)]
    outputs = []
    for batch in batches:
        outputs.append(stage.forward(batch).clone())
        stage.update(batch.index)
    gradients = [torch.randn(ROWS, CLASSES) for _ in batches]
    for index in (1, 0, 3, 2):
        assert stage.learn(index, gradients[index]) is None
        h, target, gradient = method.learnt[-1]
        assert torch.equal(h, outputs[index])
        assert torch.equal(target, batches[index].target)
        assert torch.equal(gradient, gradients[index])
    assert not stage.pending


def test_an_update_frees_the_graph():
    stage = build(0, nn.Sequential(nn.Linear(FEATURES, WIDTH)), nonzero_synthesizer(WIDTH, (), 0))
    stage.forward(small_batch())
    assert stage.pending[0].h[0].grad_fn is not None
    stage.update(0)
    assert stage.pending[0].h[0].grad_fn is None
    assert not stage.holds_input(0)


def test_the_last_stage_keeps_no_batch():
    stage = build(2, nn.Sequential(nn.Linear(FEATURES, CLASSES)))
    h = stage.forward(batch := small_batch())
    assert stage.update(0).shape == (ROWS, FEATURES)
    assert not stage.pending
    assert not stage.holds_input(0)
    torch.testing.assert_close(stage.method.loss, F.cross_entropy(h, batch.target))


def test_a_forgotten_batch_changes_nothing_more():
    stage = build(0, nn.Sequential(nn.Linear(FEATURES, WIDTH)), nonzero_synthesizer(WIDTH, (), 0))
    for index in range(2):
        stage.forward(small_batch(index))
        stage.update(index)
    before = copy.deepcopy(stage.state_dict())
    stage.forget(0)
    after = stage.state_dict()
    assert [pending["index"] for pending in after.pop("pending")] == [1]
    before.pop("pending")
    assert_same(after, before)
    with pytest.raises(KeyError):
        stage.learn(0, torch.zeros(ROWS, WIDTH))


def test_weight_version_counts_updates_of_the_layers_only():
    stages = three_stages(small_network(), [nonzero_synthesizer(WIDTH, (), 0) for _ in range(2)])
    for index in range(3):
        train(stages, small_batch(index))
        assert [stage.weight_version for stage in stages] == [index + 1] * 3


# Unusual stages


@pytest.mark.parametrize("locked", [False, True])
def test_a_stage_without_parameters_passes_the_gradient_on(locked):
    stage = build(1, nn.Sequential(nn.ReLU()), None if locked else nonzero_synthesizer(FEATURES, (), 0))
    assert stage.optimizer is None
    h = stage.forward(batch := small_batch())
    gradient = torch.randn_like(h) if locked else stage.method.now(h, batch.target)
    given = stage.update(0)
    if locked:
        assert given is None
        given = stage.learn(0, gradient)
    assert torch.equal(given, gradient * (batch.x > 0))
    assert stage.weight_version == 1


@pytest.mark.parametrize("locked", [False, True])
def test_a_first_stage_without_parameters_has_nothing_to_update(locked):
    synthesizer = None if locked else nonzero_synthesizer(FEATURES, (), 0)
    stage = build(0, nn.Sequential(nn.Flatten()), synthesizer)
    h = stage.forward(Batch(0, torch.randn(ROWS, 3, FEATURES // 3), torch.zeros(ROWS, dtype=torch.int64)))
    assert not h.requires_grad
    assert stage.update(0) is None
    assert stage.learn(0, torch.ones_like(h)) is None
    assert not stage.pending


def test_where_no_gradient_reaches_the_input_zeros_go_upstream():
    module = nn.Sequential(Stop())
    gradient = torch.ones(ROWS, FEATURES)
    stage = Stage(module, SGD(module.parameters()), Fixed(gradient), is_first=False, is_last=False)
    stage.forward(small_batch())
    assert torch.equal(stage.update(0), torch.zeros(ROWS, FEATURES))
    assert (module[0].bias != 0).all()


def test_a_stage_that_returns_its_input_passes_the_gradient_on():
    stage = build(1, nn.Sequential(nn.Identity()))
    stage.forward(small_batch())
    stage.update(0)
    gradient = torch.randn(ROWS, FEATURES)
    assert torch.equal(stage.learn(0, gradient.clone()), gradient)


def test_frozen_layers_stay_and_the_others_learn():
    module = nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES))
    module[0].requires_grad_(False)
    frozen, learnt = (copy.deepcopy(layer.state_dict()) for layer in module)
    stage = build(2, module)
    stage.forward(small_batch())
    assert (stage.update(0) != 0).any()
    assert_same(module[0].state_dict(), frozen)
    assert not torch.equal(module[1].weight, learnt["weight"])


def test_a_stage_may_begin_with_a_layer_that_works_in_place():
    stage = build(1, nn.Sequential(nn.ReLU(inplace=True), nn.Linear(FEATURES, CLASSES)))
    batch = small_batch()
    x = batch.x.clone()
    h = stage.forward(batch)
    assert torch.equal(batch.x, x)
    stage.update(0)
    assert ((stage.learn(0, torch.ones_like(h)) != 0) == (x > 0)).all()


@pytest.mark.parametrize("layer", [nn.Identity(), nn.Flatten(), nn.Dropout(0)])
def test_h_outlives_the_input_that_is_no_longer_held(layer):
    method = Fixed(torch.ones(ROWS, FEATURES))
    stage = Stage(nn.Sequential(layer), None, method, is_first=False, is_last=False)
    batch = small_batch()
    h = stage.forward(batch).clone()
    stage.update(0)
    assert not stage.holds_input(0)
    batch.x.fill_(7)  # the queue's slot has the next batch now
    stage.learn(0, torch.ones(ROWS, FEATURES))
    assert torch.equal(method.learnt[0][0], h)


# State


def test_a_restored_stage_goes_on_the_same():
    m = [nonzero_synthesizer(WIDTH, (9,), CLASSES) for _ in range(2)]
    stages = three_stages(small_network(), m, optimizer=ADAM, classes=CLASSES)
    for index in range(3):
        train(stages, small_batch(index))
    saved = copy.deepcopy([stage.state_dict() for stage in stages])
    others = [nonzero_synthesizer(WIDTH, (9,), CLASSES) for _ in range(2)]
    restored = three_stages(small_network(), others, optimizer=ADAM, classes=CLASSES)
    for stage, state in zip(restored, pickle.loads(pickle.dumps(saved)), strict=True):
        stage.load_state_dict(state)
    for index in range(3, 6):
        batch = small_batch(index)
        train(stages, batch)
        train(restored, batch)
    for stage, other in zip(stages, restored, strict=True):
        assert other.weight_version == 6
        assert_same(other.state_dict(), stage.state_dict())


def test_a_restored_stage_learns_from_the_gradients_that_were_still_to_come():
    m = nonzero_synthesizer(WIDTH, (), CLASSES)
    block = small_network()[:1]
    stage, restored = (build(0, copy.deepcopy(block), copy.deepcopy(m), classes=CLASSES) for _ in range(2))
    for index in (3, 4):
        stage.forward(small_batch(index))
        stage.update(index)
    restored.load_state_dict(copy.deepcopy(stage.state_dict()))
    assert list(restored.pending) == [3, 4]
    for index in (3, 4):
        assert not restored.holds_input(index)
        gradient = torch.randn(ROWS, WIDTH)
        stage.learn(index, gradient)
        restored.learn(index, gradient)
    assert_same(restored.state_dict(), stage.state_dict())


def test_a_stage_built_with_a_state_is_the_one_that_gave_it():
    module, m = small_network()[:1], nonzero_synthesizer(WIDTH, (9,), CLASSES)
    stage = build(0, module, m, optimizer=ADAM, classes=CLASSES)
    h = stage.forward(small_batch())
    stage.update(0)
    stage.learn(0, torch.randn_like(h))
    state = copy.deepcopy(stage.state_dict())
    fresh = spec(0, small_network()[:1], nonzero_synthesizer(WIDTH, (9,), CLASSES), optimizer=ADAM, classes=CLASSES)
    built = replace(fresh, state=state).build(torch.device("cpu"))
    assert_same(built.state_dict(), stage.state_dict())


def test_there_is_no_state_while_an_update_waits():
    stage = build(1, nn.Sequential(nn.Linear(FEATURES, WIDTH)))
    stage.forward(small_batch())
    stage.update(0)
    with pytest.raises(RuntimeError, match="waits for its gradient"):
        stage.state_dict()
    stage.learn(0, torch.ones(ROWS, WIDTH))
    assert stage.state_dict()["pending"] == []


def test_a_stage_without_parameters_has_a_state_too():
    stage = build(1, nn.Sequential(nn.ReLU()))
    stage.forward(small_batch())
    stage.update(0)
    stage.learn(0, torch.ones(ROWS, FEATURES))
    other = build(1, nn.Sequential(nn.ReLU()))
    other.load_state_dict(copy.deepcopy(stage.state_dict()))
    assert other.weight_version == 1
    assert other.state_dict()["optimizer"] is None


# StageSpec


@pytest.mark.parametrize(("index", "is_first", "is_last"), [(0, True, False), (1, False, False), (2, False, True)])
def test_a_stage_knows_its_place_and_has_the_method_of_it(index, is_first, is_last):
    stage = build(index, nn.Sequential(nn.Linear(2, 2)), nonzero_synthesizer(2, (), 0))
    assert (stage.is_first, stage.is_last) == (is_first, is_last)
    assert isinstance(stage.method, LossGradient if is_last else SyntheticGradient)


def test_a_single_stage_is_first_and_last():
    stage = build(0, nn.Sequential(nn.Linear(FEATURES, CLASSES)), num_stages=1)
    assert stage.is_first
    assert stage.is_last
    stage.forward(small_batch())
    assert stage.update(0) is None
    assert stage.weight_version == 1


def test_the_synthesizers_learning_rate_is_that_of_the_stages_adam_unless_set():
    def rate(lr, module, kind=torch.optim.Adam):
        stage = build(0, module, nonzero_synthesizer(2, (), 0), optimizer=partial(kind, lr=0.07), lr=lr)
        assert isinstance(stage.method.optimizer, torch.optim.Adam)
        return stage.method.optimizer.param_groups[0]["lr"]

    assert rate(None, nn.Sequential(nn.Linear(2, 2))) == 0.07
    assert rate(0.5, nn.Sequential(nn.Linear(2, 2))) == 0.5
    assert rate(None, nn.Sequential(nn.ReLU())) == 1e-3
    # SGD's rates are of another scale: with its 0.1, a synthesizer's Adam spoilt the training of the whole network
    assert rate(None, nn.Sequential(nn.Linear(2, 2)), torch.optim.SGD) == 1e-3


def test_layers_are_the_names_of_the_networks_blocks():
    stages = partition(small_network(), [1])
    assert [spec(k, module).layers for k, module in enumerate(stages)] == [["0"], ["1", "2"]]


def test_a_pickled_spec_makes_the_same_stage():
    made = spec(0, small_network()[:1], nonzero_synthesizer(WIDTH, (9,), CLASSES), optimizer=ADAM, classes=CLASSES)
    copied = pickle.loads(pickle.dumps(made))
    stages = [each.build(torch.device("cpu")) for each in (made, copied)]
    batch = small_batch()
    for stage in stages:
        h = stage.forward(batch)
        stage.update(0)
        stage.learn(0, torch.ones_like(h))
    assert_same(stages[0].state_dict(), stages[1].state_dict())


def test_blocks_of_a_built_stage_stay_in_the_mode_that_they_had():
    frozen = nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.BatchNorm1d(WIDTH)).eval().requires_grad_(False)
    module = nn.Sequential(frozen, nn.BatchNorm1d(WIDTH))
    stage = build(0, module, nonzero_synthesizer(WIDTH, (9,), CLASSES).eval(), classes=CLASSES)
    assert [layer.training for layer in (frozen[1], module[1])] == [False, True]
    assert stage.method.model.training
    assert sum(len(group["params"]) for group in stage.optimizer.param_groups) == 2, "those that are not frozen"
    stage.forward(small_batch())
    assert torch.equal(frozen[1].running_mean, torch.zeros(WIDTH))
    assert not torch.equal(module[1].running_mean, torch.zeros(WIDTH))
