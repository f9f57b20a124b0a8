import pytest
import torch
from torch import nn

from async_dni import ConfigError, Trainer
from async_dni.learning.batch import Batch
from async_dni.learning.methods.synthetic_gradient import SyntheticGradient
from async_dni.learning.methods.true_gradient import TrueGradient
from async_dni.learning.precision import PRECISIONS, matmul_precision, rounds_to_bfloat16
from async_dni.learning.stage import Stage
from async_dni.learning.synthesizers import LinearSynthesizer, make_synthesizer

CPU, CUDA = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul


def now() -> tuple[str, str]:
    """The settings of both kinds of device."""
    return CPU.fp32_precision, CUDA.fp32_precision


@pytest.fixture(autouse=True)
def settings_as_before():
    before = now()
    yield
    CPU.fp32_precision, CUDA.fp32_precision = before


class SeenBackwards(torch.autograd.Function):
    """Passes h and its gradient through, and notes the precision that the gradient finds."""

    @staticmethod
    def forward(ctx, h, seen):
        ctx.seen = seen
        return h.clone()

    @staticmethod
    def backward(ctx, grad_output):
        ctx.seen.append(CPU.fp32_precision)
        return grad_output, None


class Spy(nn.Module):
    """A synthesizer that notes the precision that its forward and backward pass find."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.ones(3)), []

    def forward(self, h, labels):
        self.seen.append(CPU.fp32_precision)
        return SeenBackwards.apply(h * self.weight, self.seen)


@pytest.mark.parametrize("name", PRECISIONS)
def test_it_is_what_pytorch_means_by_the_name(name):
    with matmul_precision(name, torch.device("cpu")), matmul_precision(name, torch.device("cuda:1")):
        ours = now()
    torch.set_float32_matmul_precision(name)
    try:
        assert now() == ours
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("before", PRECISIONS)
def test_the_setting_before_is_put_back_also_when_the_block_raises(before):
    CPU.fp32_precision, CUDA.fp32_precision = PRECISIONS[before]

    def fail(name):
        with matmul_precision(name, torch.device("cpu")):
            assert now() == (PRECISIONS[name][0], PRECISIONS[before][1])
            raise KeyError

    for name in PRECISIONS:
        with pytest.raises(KeyError):
            fail(name)
        assert now() == PRECISIONS[before]


def test_different_settings_for_different_devices_are_no_obstacle():
    # get_float32_matmul_precision, which has one name for all, raises here
    CPU.fp32_precision, CUDA.fp32_precision = "bf16", "ieee"
    with matmul_precision("highest", torch.device("cpu")):
        assert now() == ("ieee", "ieee")
    assert now() == ("bf16", "ieee")


def test_none_changes_nothing():
    CPU.fp32_precision = "tf32"
    with matmul_precision(None, torch.device("cpu")):
        assert CPU.fp32_precision == "tf32"


class SpyLayer(Spy):
    """The same as a layer."""

    def forward(self, h):
        return super().forward(h, None)


def spying_stage(precision, method=None):
    """A stage and its synthesizer, at `medium`, that note what they find; a batch for them."""
    layer, synthesizer = SpyLayer(), Spy()
    method = method or SyntheticGradient(
        synthesizer, torch.optim.SGD(synthesizer.parameters(), 0.1), conditioned=False, precision="medium"
    )
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    stage = Stage(nn.Sequential(layer), optimizer, method, is_first=False, is_last=False, precision=precision)
    return stage, layer, synthesizer, Batch(0, torch.randn(4, 3), torch.zeros(4))


@pytest.mark.parametrize(("precision", "expected"), [(None, "ieee"), ("highest", "ieee"), ("high", "tf32")])
def test_layers_and_their_synthesizer_multiply_each_in_their_own(precision, expected):
    CPU.fp32_precision = "ieee" if precision is None else "bf16"
    before = now()
    stage, layer, synthesizer, batch = spying_stage(precision)
    h = stage.forward(batch)
    stage.update(0)
    stage.learn(0, torch.ones_like(h))
    assert layer.seen == [expected] * 2  # forward, backward
    assert synthesizer.seen == ["bf16"] * 3  # two predictions, one backward pass
    assert now() == before


def test_an_update_that_waited_has_the_precision_of_its_forward_pass():
    stage, layer, _, batch = spying_stage("high", TrueGradient())
    h = stage.forward(batch)
    stage.learn(0, torch.ones_like(h))
    assert layer.seen == ["tf32"] * 2


def test_gradients_without_autograd_are_in_its_precision_too(monkeypatch):
    seen = []
    real = LinearSynthesizer.set_gradients
    monkeypatch.setattr(
        LinearSynthesizer, "set_gradients", lambda *args: (seen.append(CPU.fp32_precision), real(*args))
    )
    synthesizer = make_synthesizer((3,), (), 2, "linear")
    method = SyntheticGradient(
        synthesizer, torch.optim.SGD(synthesizer.parameters(), 0.1), conditioned=True, precision="high"
    )
    h = torch.randn(4, 3)
    method.learn(h, torch.tensor([0, 1, 1, 0]), h)
    assert seen == ["tf32"]


def gradients(precision, hidden, rows, width):
    """A synthesizer's prediction, and what it learns from: the same ones for each precision."""
    generator = torch.Generator().manual_seed(0)
    h, delta = (torch.randn(rows, width, generator=generator) for _ in range(2))
    labels = torch.randint(0, 10, (rows,), generator=generator)
    torch.manual_seed(0)
    synthesizer = make_synthesizer((width,), hidden, 10, "mlp" if hidden else "linear")
    for parameter in synthesizer.parameters():
        nn.init.normal_(parameter, std=0.1)
    optimizer = torch.optim.SGD(synthesizer.parameters(), 0.0)
    method = SyntheticGradient(synthesizer, optimizer, conditioned=True, precision=precision)
    gradient = method.now(h, labels)
    method.learn(h, labels, delta)
    return [gradient, *(parameter.grad for parameter in synthesizer.parameters())]


sizes = pytest.mark.parametrize(("rows", "width"), [(64, 128), (250, 256)])


@sizes
@pytest.mark.parametrize(("hidden", "bound"), [((), 0.02), ((64,), 0.1)])
def test_what_is_rounded_off_is_small(hidden, bound, rows, width):
    """bfloat16 keeps 8 bits of a factor. Whether PyTorch rounds at all depends on the processor and on the size.

    A unit whose input is nearly 0 may fall on the other side of its ReLU; a layer before it then learns more or less.
    """
    both = (gradients(precision, hidden, rows, width) for precision in ("highest", "medium"))
    for exact, rounded in zip(*both, strict=True):
        assert torch.linalg.vector_norm(rounded - exact) <= bound * torch.linalg.vector_norm(exact)


@sizes
@pytest.mark.parametrize("hidden", [(), (64,)])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_are_those_that_pytorch_makes_in_this_precision(precision, hidden, rows, width):
    ours = gradients(precision, hidden, rows, width)
    torch.set_float32_matmul_precision(precision)
    try:
        theirs = gradients(None, hidden, rows, width)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("size", [64, 256])
def test_whether_a_product_is_rounded_is_told_by_the_product(size):
    """Another routine's last bits are no rounding: AVX-512 without AMX has one for large products in `medium`."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, size, generator=generator)
    with matmul_precision("medium", x.device):
        off = torch.linalg.vector_norm((x @ x).double() - x.double() @ x.double()) / torch.linalg.vector_norm(x @ x)
    assert rounds_to_bfloat16(size, size) == (off > 1e-4)  # of float32, some 1e-7 a sum; of bfloat16, some 1e-3


def stages(**settings):
    """What a Trainer with these settings would train, with the data's batches of 5."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    trainer = Trainer(model, workers=3, batch_size=5, **settings)
    _, specs, _ = trainer.cut((torch.randn(10, 4), torch.zeros(10, dtype=torch.int64)))
    return [spec.build(torch.device("cpu")) for spec in specs]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_trainers_settings_reach_every_stage(precision):
    built = stages(synthesizer_matmul_precision=precision, matmul_precision="high")
    assert [stage.method.precision for stage in built[:-1]] == [precision] * 2
    assert [stage.precision for stage in built] == ["high"] * 3


def test_by_default_layers_are_as_pytorch_is_set():
    assert [stage.precision for stage in stages()] == [None] * 3


def test_a_synthesizer_that_its_precision_does_not_suit_is_refused_before_the_start():
    class Particular(nn.Linear):
        def forward(self, h, labels):
            torch.get_float32_matmul_precision()  # PyTorch raises where devices differ; torch.compile asks for it
            return super().forward(h)

    with pytest.raises(ConfigError, match="synthesizer: got Particular; it does not take the output of block '0'"):
        stages(synthesizer=lambda features, classes: Particular(4, 4), synthesizer_matmul_precision="medium")
    built = stages(synthesizer=lambda features, classes: Particular(4, 4))
    assert [stage.method.precision for stage in built[:-1]] == ["highest"] * 2
