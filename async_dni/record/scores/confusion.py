"""Which class was taken for which, by outputs `[batch, classes, ...]` and labels `[batch, ...]`."""

from __future__ import annotations

import torch
from torch import Tensor

from ...learning.metrics.metric import labelled, takes_labels

MOST_CLASSES = 1000  # of which a table is kept


class Confusion:
    """Counts labels, and those that are the largest output, per sample or per position; `ignored` ones not at all."""

    def __init__(self, ignored: int | None) -> None:
        self._ignored = ignored
        self._right = self._labels = self._classes = 0
        self._cells: Tensor | None = None

    def add(self, output: Tensor, target: Tensor) -> None:
        """Take in a batch; of one whose targets are no labels, nothing."""
        if not isinstance(output, Tensor) or not isinstance(target, Tensor) or not takes_labels(output, target):
            return
        if (classes := output.shape[1]) < 2:
            return  # one output is no choice
        rows, labels = labelled(output, target, self._ignored)
        counted = (labels >= 0) & (labels < classes)
        labels, found = labels[counted], rows[counted].argmax(1)
        self._classes = classes
        self._right += int((labels == found).sum())
        self._labels += len(labels)
        if classes <= MOST_CLASSES:
            cells = torch.bincount(labels * classes + found, minlength=classes**2)
            self._cells = cells if self._cells is None else self._cells + cells

    @property
    def table(self) -> list[list[int]] | None:
        """[true class][predicted class]; None where there are no classes, or too many."""
        return None if self._cells is None else self._cells.view(self._classes, self._classes).tolist()

    @property
    def error(self) -> float | None:
        """The share of labels that are not the largest output, in per cent; None where none was counted."""
        return 100 * (self._labels - self._right) / self._labels if self._labels else None
