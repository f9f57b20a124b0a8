"""Settings of a training: the models beside the layers, synthesizers and auxiliary heads."""

from __future__ import annotations

from dataclasses import dataclass

from ..foundation.error import ConfigError
from ..foundation.option import number, one_of, option, whole, widths
from ..foundation.reference import reference
from ..learning.precision import MATMUL_PRECISIONS
from ..learning.synthesizers import SYNTHESIZERS, synthesizer_choices


def names_synthesizers(value: object) -> str | None:
    """Check that a value names one or several synthesizers, with settings that they take."""
    if not isinstance(value, str):
        return f"allowed: {', '.join(SYNTHESIZERS)}"
    try:
        synthesizer_choices(value)
    except ConfigError as error:
        return error.allowed
    return None


@dataclass(frozen=True)
class Synthesis:
    """The models that predict gradients, and the auxiliary heads."""

    synthesizer: str | None = option(
        None,
        "model that predicts the gradient, with settings (mlp:hidden=512x512, convolutional:kernel=3), one for all boundaries "
        "or one for each, separated by commas; default: by the shape of a stage's output",
        names_synthesizers,
        registry=SYNTHESIZERS,
    )
    synthesizer_lr: float | None = option(
        None,
        "learning rate of the synthesizers' Adam, or the auxiliary heads'; default: that of the stages, if theirs is an Adam, "
        "else 0.001",
        number(above=0),
    )
    synthesizer_hidden: tuple[int, ...] | None = option(
        None,
        "hidden widths of the synthesizers, e.g. 1024,1024; default: the method's",
        widths,
    )
    synthesizer_every: int = option(
        1,
        "learn from the gradient of every N-th batch only; the others are not computed or sent; saves time, but a deep "
        "network may come apart with it",
        whole(1),
        metavar="N",
    )
    target_lambda: float = option(
        0.0,
        "BP(lambda), 0 to 1, with at least 3 workers: how much of what a stage sends upstream, for the synthesizer there to "
        "learn from, is the gradient that came back to it, rather than its own prediction; costs another forward pass and "
        "another gradient of the input; default: 0",
        number(least=0, most=1),
    )
    synthesizer_matmul_precision: str | None = option(
        None,
        "precision of the synthesizers' products of matrices, as torch.set_float32_matmul_precision has it: float32 "
        "(highest), or, where PyTorch has them for the device and the size, TF32 (high), bfloat16 (medium; on CUDA TF32); "
        "default: medium for predictions of at least 32,768 numbers a batch, where PyTorch has it for them, else highest",
        one_of(MATMUL_PRECISIONS),
        choices=MATMUL_PRECISIONS,
    )
    auxiliary_head: str | None = option(
        None,
        "function that makes each stage's own classifier, where the method has one, as path/to/file.py:name or "
        "package.module:name, of the shapes of one sample of the stage's output and of the network's; default: linear, by "
        "these shapes",
        reference,
        metavar="FILE.py:FUNCTION",
    )
    auxiliary_hidden: tuple[int, ...] = option(
        (), "hidden widths of the auxiliary heads, e.g. 256,256; default: none", widths, metavar="WIDTHS"
    )
