"""Augmentation: crops and flips of images, anew for each sample, of the training set only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from async_dni import ImageDataset, Trainer
from async_dni.data.augment import PADDING, Augment
from async_dni.data.stream import BatchStream
from async_dni.learning.random_state import seeded

IMAGES = torch.arange(12 * 3 * 6 * 5.0).view(12, 3, 6, 5) + 1


def crops(image: Tensor, black: float = 0.0) -> list[Tensor]:
    """Every crop that there can be of an image, slowly."""
    padded = F.pad(image, [PADDING] * 4, value=black)
    places = [(top, left) for top in range(2 * PADDING + 1) for left in range(2 * PADDING + 1)]
    return [padded[:, top : top + image.shape[1], left : left + image.shape[2]] for top, left in places]


def is_among(image: Tensor, images: list[Tensor]) -> bool:
    return any(torch.equal(image, other) for other in images)


def test_an_image_is_flipped_or_left_as_it_is() -> None:
    flipped = Augment(("flip",))(IMAGES.repeat(5, 1, 1, 1))
    found = [is_among(image, [IMAGES[i % 12].flip(2)]) for i, image in enumerate(flipped)]
    assert all(is_among(image, [IMAGES[i % 12], IMAGES[i % 12].flip(2)]) for i, image in enumerate(flipped))
    assert 15 < sum(found) < 45


def test_an_image_is_cropped_at_a_place_of_its_own() -> None:
    cropped = Augment(("crop",))(IMAGES[:1].repeat(40, 1, 1, 1))
    assert all(is_among(image, crops(IMAGES[0])) for image in cropped)
    assert len({tuple(image.flatten().tolist()) for image in cropped}) > 15


def test_both_are_done_and_the_images_that_were_given_stay() -> None:
    before = IMAGES.clone()
    both = Augment.of(("flip", "crop"), None)
    assert both == Augment(("crop", "flip")), "in one order"
    assert all(
        is_among(image, [x for crop in crops(IMAGES[i]) for x in (crop, crop.flip(2))])
        for i, image in enumerate(both(IMAGES))
    )
    assert torch.equal(IMAGES, before)
    assert Augment.of((), None) is None


def test_black_is_black_where_images_are_normalized() -> None:
    dataset = ImageDataset(
        torch.zeros(4, 3, 6, 6, dtype=torch.uint8), torch.zeros(4).long(), [0.2, 0.4, 0.6], [0.1, 0.2, 0.3]
    )
    augment = Augment.of(("crop",), dataset)
    assert augment is not None
    x = dataset.get_batch(torch.arange(4))[0]
    torch.testing.assert_close(augment(x), x)


def test_bytes_and_other_types_stay_what_they_are() -> None:
    for dtype in (torch.uint8, torch.float64):
        assert Augment(("crop", "flip"))(IMAGES.to(dtype)).dtype == dtype


@pytest.mark.parametrize("kind", ["indexed", "iterated"])
def test_a_batch_is_augmented_by_its_index_alone(kind: str) -> None:
    dataset, augment = TensorDataset(IMAGES, torch.arange(12)), Augment(("crop", "flip"))
    stream = BatchStream(dataset, 4, 6, 1, augment)
    batch = stream[4]
    torch.rand(1)
    assert torch.equal(stream[4].x, batch.x)
    with seeded(1, 1, 4):
        assert torch.equal(augment(IMAGES[stream.indices(4)]), batch.x)
    again = next(index for index in range(3) if set(stream.indices(index).tolist()) & set(stream.indices(4).tolist()))
    assert not torch.equal(stream[again].x, batch.x)


class Seen(nn.Module):
    """Keeps what it was given, in a file a mode."""

    def __init__(self, kept: dict[bool, list[Tensor]]) -> None:
        super().__init__()
        self.kept = kept

    def __deepcopy__(self, memo: Any) -> Seen:
        copied = Seen(self.kept)
        copied.training = self.training
        return copied

    def forward(self, x: Tensor) -> Tensor:
        self.kept.setdefault(self.training, []).append(x.clone())
        return x.flatten(1)


@pytest.mark.parametrize("as_loader", [False, True])
def test_the_training_set_is_augmented_and_the_other_is_not(as_loader: bool) -> None:
    kept: dict[bool, list[Tensor]] = {}
    dataset: Any = TensorDataset(IMAGES, torch.zeros(12).long())
    data = DataLoader(dataset, batch_size=4) if as_loader else dataset
    model = nn.Sequential(Seen(kept), nn.Linear(3 * 6 * 5, 2))
    trainer = Trainer(model, workers=1, batch_size=4, method="backprop", serial=True, augment=("crop", "flip"), lag=1)
    trainer.fit(
        data,
        epochs=2,
        eval_set=dataset,
    )
    evaluated = torch.cat(kept[False][-3:])
    assert torch.equal(evaluated, IMAGES)
    assert not all(is_among(image, list(IMAGES)) for batch in kept[True] for image in batch)
