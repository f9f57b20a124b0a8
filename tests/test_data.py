import gzip
import hashlib
import os
import pickle
import stat
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from async_dni import DATASETS, ConfigError, ImageDataset, load_dataset
from async_dni.data.description import input_shape, num_classes
from async_dni.data.sets import mnist as mnist_set
from async_dni.data.sets import torchvision_set
from async_dni.data.sets.mnist import unpack_mnist
from async_dni.data.stream import BatchStream

BYTES = torch.Generator().manual_seed(0)
NAMES = ("first-idx", "second-idx")
CONTENT = b"what the archive holds" * 1000


def numbered(samples):
    return TensorDataset(torch.arange(samples), torch.arange(samples) * 10)


def order(stream):
    return [batch.x.tolist() for batch in stream]


def archives(root, monkeypatch):
    """Small archives that stand in for MNIST's."""
    monkeypatch.setattr(mnist_set, "MNIST_MD5", dict.fromkeys(NAMES, hashlib.md5(CONTENT).hexdigest()))
    (root / "mnist").mkdir()
    for name in NAMES:
        (root / "mnist" / f"{name}.gz").write_bytes(gzip.compress(CONTENT))
    return root / "mnist" / f"{NAMES[1]}.gz"


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


# ImageDataset


def test_images_are_normalized_by_channel():
    images = torch.randint(256, (4, 2, 3, 3), dtype=torch.uint8, generator=BYTES)
    mean, std = [0.25, 0.5], [0.5, 0.125]
    dataset = ImageDataset(images, torch.arange(4), mean, std)
    x, labels = dataset.get_batch(torch.tensor([3, 1]))
    for channel in range(2):
        expected = (images[[3, 1], channel].double() / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(x[:, channel].double(), expected, rtol=1e-5, atol=1e-6)
    assert x.dtype == torch.float32
    assert labels.tolist() == [3, 1]


def test_padding_is_black_on_every_side():
    images = torch.full((1, 1, 2, 2), 255, dtype=torch.uint8)
    x, _ = ImageDataset(images, torch.zeros(1), [0.5], [0.25], pad=1)[0]
    assert x.shape == (1, 4, 4)
    torch.testing.assert_close(x[0, 1:3, 1:3], torch.full((2, 2), 2.0))
    assert (x == -2).sum() == 12


def test_taking_a_batch_leaves_the_images_as_they_are():
    images = torch.randint(256, (4, 1, 3, 3), dtype=torch.uint8, generator=BYTES)
    dataset = ImageDataset(images.clone(), torch.arange(4), [0.3], [0.2])
    first = dataset.get_batch(torch.arange(4))[0].clone()
    assert torch.equal(dataset.get_batch(torch.arange(4))[0], first)
    assert torch.equal(dataset.images, images)
    assert torch.equal(dataset[2][0], first[2])


# load_dataset


def test_mnist_is_mnist(mnist):
    train, test = mnist
    assert (len(train), len(test)) == (60000, 10000)
    assert train.images.shape[1:] == (1, 28, 28)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert torch.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_the_training_set_has_mean_zero_and_deviation_one_and_the_test_set_its_scale(mnist):
    train, test = mnist
    sums = [train.get_batch(part)[0].double() for part in torch.arange(60000).split(10000)]
    assert sum(float(x.sum()) for x in sums) / (60000 * 784) == pytest.approx(0, abs=1e-5)
    assert sum(float(x.square().sum()) for x in sums) / (60000 * 784) == pytest.approx(1, abs=1e-5)
    assert torch.equal(train.scale, test.scale)
    assert torch.equal(train.shift, test.shift)


def test_size_32_pads_the_same_images():
    (padded, _), (plain, _) = load_dataset("mnist", image_size=32), load_dataset("mnist", image_size=28)
    indices = torch.arange(8)
    assert padded.get_batch(indices)[0].shape == (8, 1, 32, 32)
    assert torch.equal(padded.get_batch(indices)[0][:, :, 2:30, 2:30], plain.get_batch(indices)[0])


@pytest.mark.parametrize(("name", "size", "setting"), [("svhn", None, "dataset"), ("cifar10", 28, "image_size")])
def test_what_does_not_exist_is_refused(name, size, setting, tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_dataset(name, tmp_path, size)
    assert caught.value.setting == setting
    assert not list(tmp_path.iterdir())


def test_files_in_the_data_dir_are_not_downloaded(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for prefix, samples in (("train", 6), ("t10k", 4)):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", rng.integers(256, size=(samples, 28, 28), dtype=np.uint8))
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(samples, dtype=np.uint8))
    train, test = load_dataset("fashion-mnist", tmp_path)
    assert train.images.shape == (6, 1, 28, 28)
    assert test.labels.tolist() == [0, 1, 2, 3]


def test_color_images_come_with_channels_first(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(256, size=(5, 32, 32, 3), dtype=np.uint8)

    def cifar10(root, train, download):
        return SimpleNamespace(data=images, targets=[4, 3, 2, 1, 0])

    fake = SimpleNamespace(CIFAR10=cifar10, MNIST=None, FashionMNIST=None)
    monkeypatch.setattr(torchvision_set, "torchvision_datasets", lambda: fake)
    train, _ = load_dataset("cifar10", tmp_path)
    assert train.images[1, 2, 3, 4] == images[1, 3, 4, 2]
    assert train.labels.tolist() == [4, 3, 2, 1, 0]
    x = train.get_batch(torch.arange(5))[0].double()
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3).double(), rtol=0, atol=1e-5)


def test_a_download_that_fails_names_the_folder_that_the_files_go_to(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision_set.torchvision_datasets().FashionMNIST, "mirrors", [])
    with pytest.raises(ConfigError, match="FashionMNIST/raw") as caught:
        load_dataset("fashion-mnist", tmp_path / "mistyped" / "name")
    assert caught.value.setting == "data_dir"
    assert not list(tmp_path.iterdir())


def write_fashion(folder, gzipped):
    """Small files under Fashion-MNIST's names, as Debian's package has them: in the folder itself, gzipped."""
    rng, written = np.random.default_rng(0), {}
    for part, samples in (("train", 6), ("t10k", 4)):
        images = rng.integers(256, size=(samples, 28, 28), dtype=np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(samples, dtype=np.uint8))):
            path = folder / f"{part}-{kind}-ubyte"
            write_idx(path, array)
            if gzipped:
                (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
                path.unlink()
        written[part] = images
    return written


@pytest.mark.parametrize("gzipped", [True, False])
def test_fashion_mnist_lies_in_the_data_dir_itself(gzipped, tmp_path):
    written = write_fashion(tmp_path, gzipped)
    before = sorted(tmp_path.iterdir())
    train, test = load_dataset("fashion-mnist", tmp_path)
    assert torch.equal(train.images[:, 0], torch.from_numpy(written["train"]))
    assert torch.equal(test.images[:, 0], torch.from_numpy(written["t10k"]))
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3])
    assert train[0][0].dtype == torch.float32
    assert load_dataset("fashion-mnist", tmp_path, 32)[0].images.shape == (6, 1, 32, 32)
    assert sorted(tmp_path.iterdir()) == before, "nothing is written"


DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist():
    train, test = load_dataset("fashion-mnist", DEBIAN)
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    assert torch.bincount(test.labels).tolist() == [1000] * 10
    assert train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[:-40], "it can't be read"),
        (lambda content: b"<html>not found</html>", "it can't be read"),
        (lambda content: gzip.compress(gzip.decompress(content)[:-1]), "it has 4703 values; its head says 6 × 28 × 28"),
        (
            lambda content: gzip.compress(b"\0\0\x0d\3" + gzip.decompress(content)[4:]),
            "it is no IDX file of unsigned bytes",
        ),
        (lambda content: gzip.compress(b""), "it is no IDX file of unsigned bytes in 3 dimensions"),
    ],
)
def test_damaged_idx_files_are_refused(damage, said, tmp_path):
    write_fashion(tmp_path, gzipped=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ConfigError) as caught:
        load_dataset("fashion-mnist", tmp_path)
    assert str(caught.value).startswith(f"data_dir: got {file}; {said}")


@pytest.mark.parametrize(("last", "said"), [(99, None), (100, "sample 3 has label 100; allowed: 0 to 99")])
def test_cifar100_has_100_classes(last, said, tmp_path, monkeypatch):
    def cifar100(root, train, download):
        images = np.random.default_rng(0).integers(256, size=(4, 32, 32, 3), dtype=np.uint8)
        return SimpleNamespace(data=images, targets=[0, 7, 50, last])

    monkeypatch.setattr(torchvision_set, "torchvision_datasets", lambda: SimpleNamespace(CIFAR100=cifar100))
    if said is None:
        train, _ = load_dataset("cifar100", tmp_path)
        assert train.labels.tolist() == [0, 7, 50, 99]
        assert DATASETS["cifar100"].num_classes == 100
    else:
        with pytest.raises(ConfigError, match=said):
            load_dataset("cifar100", tmp_path)


# text


def test_text_is_sequences_of_characters_and_the_next_of_each(tmp_path):
    text = "".join(chr(ord("a") + i * i % 23) for i in range(1000)) + "é😀\r\n"
    (tmp_path / "text.txt").write_bytes(text.encode())
    train, test = load_dataset("text", tmp_path / "text.txt", sequence_length=7)
    assert train.vocabulary == "".join(sorted(set(text)))
    assert train.num_classes == test.num_classes == len(set(text))
    assert (len(train), len(test)) == ((904 - 1) // 7, (100 - 1) // 7)
    x, target = train.get_batch(torch.tensor([2, 0, 128]))
    assert x.dtype == target.dtype == torch.int64
    assert [train.decode(row) for row in x] == [text[14:21], text[0:7], text[896:903]]
    assert [train.decode(row) for row in target] == [text[15:22], text[1:8], text[897:904]]
    assert test.decode(test[0][0]) == text[904:911], "the last tenth is held out"
    assert torch.equal(train[2][0], x[0])
    assert train.characters.dtype == torch.uint8, "kept as small as it is"
    assert train.characters.untyped_storage().nbytes() == 904
    with pytest.raises(IndexError):
        train[129]


def test_text_of_many_characters(tmp_path):
    text = "".join(map(chr, range(300, 2000)))
    (tmp_path / "text.txt").write_text(text)
    train, _ = load_dataset("text", tmp_path / "text.txt")
    assert train.num_classes == 1700
    assert train.decode(train[3][0]) == text[192:256]


@pytest.mark.parametrize(
    ("content", "length", "setting", "said"),
    [
        (None, None, "data_dir", "there is no such file; allowed: a file of text, in UTF-8"),
        (b"ab\xff", None, "data_dir", "byte 2 is no UTF-8; allowed: a file of text"),
        (
            b"",
            None,
            "sequence_length",
            "its 0 characters are too few for sequences of 64: a tenth of them is to hold one",
        ),
        (
            b"ab" * 50,
            10,
            "sequence_length",
            "its 100 characters are too few for sequences of 10: a tenth of them is to h",
        ),
    ],
)
def test_text_that_can_not_be_read_is_refused(content, length, setting, said, tmp_path):
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_dataset("text", tmp_path / "text.txt", sequence_length=length)
    assert caught.value.setting == setting
    assert caught.value.allowed.startswith(said)
    if length:
        assert caught.value.allowed.endswith("; allowed: 1 to 9")
        assert len(load_dataset("text", tmp_path / "text.txt", sequence_length=9)[1]) == 1


def test_directory_is_no_text(tmp_path):
    with pytest.raises(ConfigError, match="this is a directory; allowed: a file of text"):
        load_dataset("text", tmp_path)


def test_settings_of_another_data_set_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="sequence_length: got 8; mnist takes image_size"):
        load_dataset("mnist", tmp_path, sequence_length=8)
    with pytest.raises(ConfigError, match="image_size: got 32; text takes sequence_length"):
        load_dataset("text", tmp_path, image_size=32)


# what a network must know


class Loaded(torch.utils.data.Dataset):
    """Samples that are made when they are asked for."""

    def __init__(self, targets):
        self.targets_of = targets

    def __len__(self):
        return len(self.targets_of)

    def __getitem__(self, index):
        return torch.zeros(2, 3), self.targets_of[index]


@pytest.mark.parametrize(
    ("dataset", "classes"),
    [
        (TensorDataset(torch.zeros(3, 2, 3), torch.tensor([0, 4, 1])), 5),
        (TensorDataset(torch.zeros(2, 2, 3), torch.tensor([[0, 4, 9], [-100, 1, 2]])), 10),
        (Loaded([0, 2, 2, 0]), 3),
        (ImageDataset(torch.zeros(2, 2, 3, 1, dtype=torch.uint8), torch.tensor([0, 1]), [0.5] * 2, [0.5] * 2), 2),
    ],
)
def test_classes_are_counted_where_nobody_says(dataset, classes):
    assert num_classes(dataset) == classes
    assert input_shape(dataset)[:2] == (2, 3)
    dataset.num_classes = 12
    assert num_classes(dataset) == 12


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(2, 3), 1)] * 5)


def test_what_is_iterated_shows_its_first_batch_and_says_its_classes_itself():
    loader = torch.utils.data.DataLoader(Loaded([0, 2, 1]), batch_size=2)
    ready = torch.utils.data.DataLoader([(torch.zeros(4, 2, 3), torch.zeros(4))], batch_size=None)
    for data in (Stream(), ready):
        assert input_shape(data) == (2, 3)
        with pytest.raises(
            ConfigError, match=f"train_set: got {type(data).__name__}; its labels can't all be looked at"
        ):
            num_classes(data)
    assert num_classes(loader) == 3, "of a data set with a length"
    later = torch.utils.data.DataLoader(Loaded([0, 2, 1]), collate_fn=lambda pairs: [torch.full((len(pairs),), 7)] * 2)
    assert num_classes(later) == 8, "as they come out of collate_fn"
    loader.dataset.num_classes = 4
    assert num_classes(loader) == 4
    with pytest.raises(ConfigError, match="allowed, where a network asks for input_shape: pairs"):
        input_shape(torch.utils.data.DataLoader([{"x": torch.zeros(3)}]))


def test_classes_of_what_has_none_are_refused():
    with pytest.raises(ConfigError, match=r"data: got targets \[\] torch.float64; allowed, where a network asks"):
        num_classes(Loaded([0.5, 0.25]), "data")


# unpack_mnist


def test_archives_are_unpacked_once(tmp_path, monkeypatch):
    archive = archives(tmp_path, monkeypatch)
    unpack_mnist(tmp_path)
    archive.unlink()
    unpack_mnist(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == dict.fromkeys(NAMES, CONTENT)


def test_a_missing_archive_is_named(tmp_path, monkeypatch):
    archives(tmp_path, monkeypatch).unlink()
    with pytest.raises(ConfigError, match=r"second-idx\.gz is missing"):
        unpack_mnist(tmp_path)


def truncated(archive):
    return archive[:-20]


def plain_text(archive):
    return CONTENT


def other_content(archive):
    return gzip.compress(CONTENT[:-1])


def wrong_checksum(archive):
    return archive[:-8] + bytes([archive[-8] ^ 1]) + archive[-7:]


def broken_body(archive):
    return archive[:10] + b"\xff" * 20 + archive[30:]


@pytest.mark.parametrize("damage", [truncated, plain_text, other_content, wrong_checksum, broken_body])
def test_a_damaged_archive_is_refused_and_nothing_of_it_is_kept(damage, tmp_path, monkeypatch):
    archive = archives(tmp_path, monkeypatch)
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(ConfigError, match=r"second-idx\.gz") as caught:
        unpack_mnist(tmp_path)
    assert caught.value.setting == "data_dir"
    assert [path.name for path in (tmp_path / "MNIST" / "raw").iterdir()] == [NAMES[0]]


def test_a_directory_that_cannot_be_written_is_a_config_error(tmp_path, monkeypatch):
    archives(tmp_path, monkeypatch)
    (tmp_path / "MNIST").write_text("a file in the way")
    with pytest.raises(ConfigError, match="can be written"):
        unpack_mnist(tmp_path)


def test_a_write_that_fails_leaves_no_half_written_file(tmp_path, monkeypatch):
    archives(tmp_path, monkeypatch)

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ConfigError):
        unpack_mnist(tmp_path)
    assert not list((tmp_path / "MNIST" / "raw").iterdir())


def test_unpacked_files_can_be_read_by_whoever_the_umask_lets(tmp_path, monkeypatch):
    archives(tmp_path, monkeypatch)
    unpack_mnist(tmp_path)
    plain = tmp_path / "plain"
    plain.touch()
    for path in (tmp_path / "MNIST" / "raw").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


# BatchStream


@given(samples=st.integers(1, 40), batch_size=st.integers(1, 45), seed=st.integers(0, 2**31))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_every_epoch_has_every_sample_once(samples, batch_size, seed):
    per_epoch = -(-samples // batch_size)
    stream = BatchStream(numbered(samples), batch_size, 2 * per_epoch, seed)
    assert stream.steps_per_epoch == per_epoch
    batches = order(stream)
    for epoch in (batches[:per_epoch], batches[per_epoch:]):
        assert sorted(sample for batch in epoch for sample in batch) == list(range(samples))
        assert [len(batch) for batch in epoch[:-1]] == [batch_size] * (per_epoch - 1)


def test_samples_keep_their_targets():
    for batch in BatchStream(numbered(10), 4, 6, seed=1):
        assert torch.equal(batch.target, batch.x * 10)


def test_the_order_is_a_function_of_the_seed_and_the_epoch():
    first, again, other = (order(BatchStream(numbered(50), 50, 2, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first[0] != first[1]
    assert first[0] != other[0]
    torch.manual_seed(5)
    assert order(BatchStream(numbered(50), 50, 2, 1)) == first


def test_seeds_do_not_share_their_epochs():
    orders = [tuple(batch) for seed in (0, 1) for batch in order(BatchStream(numbered(50), 50, 5, seed))]
    assert len(set(orders)) == 10


@given(indices=st.lists(st.integers(0, 11), min_size=1, max_size=12))
@settings(deadline=None, derandomize=True, max_examples=30)
def test_any_batch_can_be_asked_for_in_any_order(indices):
    whole = order(BatchStream(numbered(10), 4, 12, seed=3))
    stream = BatchStream(numbered(10), 4, 12, seed=3)
    assert [stream[index].x.tolist() for index in indices] == [whole[index] for index in indices]
    assert [stream[index].index for index in indices] == indices


@pytest.mark.parametrize("index", [-1, 3])
def test_a_batch_outside_the_stream_is_an_index_error(index):
    with pytest.raises(IndexError, match="stream of 3"):
        BatchStream(numbered(10), 4, 3, seed=0)[index]


def test_a_pickled_stream_goes_on_the_same():
    stream = BatchStream(numbered(10), 4, 6, seed=3)
    copied = pickle.loads(pickle.dumps((stream, stream[4])))[0]
    assert order(copied) == order(stream)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_every_seed_that_the_settings_allow_gives_an_order(seed):
    assert sorted(order(BatchStream(numbered(5), 5, 1, seed))[0]) == [0, 1, 2, 3, 4]
