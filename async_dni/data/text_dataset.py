"""The characters of a text, as sequences whose targets are the next ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset


class TextDataset(Dataset):
    """Sequences of `length` characters, one after the other; the targets are each character's next.

    `characters`: `[characters]`, an integer each, its place in `vocabulary`. They are kept once; a batch is cut out of them.
    Sample i is the characters from i·length on; what is left over at the end is in no sample.
    """

    def __init__(self, characters: Tensor, vocabulary: str, length: int) -> None:
        self.characters, self.vocabulary, self.length = characters, vocabulary, length
        self.num_classes = len(vocabulary)

    def __len__(self) -> int:
        return max(len(self.characters) - 1, 0) // self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        x, target = self.get_batch(torch.tensor([index]))
        return x[0], target[0]

    def get_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Characters `[batch, length]` int64, and the next of each, the same."""
        places = indices[:, None] * self.length + torch.arange(self.length + 1)
        characters = self.characters[places].long()
        return characters[:, :-1].contiguous(), characters[:, 1:].contiguous()

    def decode(self, characters: Tensor) -> str:
        """The text of characters `[time]`."""
        return "".join(self.vocabulary[index] for index in characters.tolist())
