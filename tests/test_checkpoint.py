"""Checkpoints: whole or not there, checked when read, and cut anew for another split."""

from __future__ import annotations

import io
import os
import pickle
import random
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from async_dni import ConfigError, Trainer, fcn
from async_dni.record.checkpoint import (
    FORMAT,
    VERSION,
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)

BLOCKS = [str(block) for block in range(12)]  # "1" is the beginning of "10" and "11"


def made_up(step: int = 3, split: tuple[int, ...] = (2, 5, 10)) -> Checkpoint:
    """A checkpoint whose every value says whose it is: block b's weight is b, stage k's synthesizer 100 + k."""
    bounds, states = [0, *split, len(BLOCKS)], []
    for k, (first, last) in enumerate(zip(bounds, bounds[1:], strict=False)):
        is_last = last == len(BLOCKS)
        states.append(
            {
                "model": {f"{block}.weight": torch.full((2,), float(block)) for block in BLOCKS[first:last]},
                "optimizer": {
                    f"{block}.weight": {"momentum_buffer": torch.full((2,), 50.0 + int(block))}
                    for block in BLOCKS[first:last]
                },
                "method": {} if is_last else {"synthesizer": {"weight": torch.tensor(100.0 + k)}, "optimizer": {}},
                "weight_version": 1000 + k,
                "pending": []
                if is_last
                else [{"index": step - 1, "h": torch.tensor([float(k)]), "target": torch.tensor([1])}],
                "gradients": {} if is_last else {step - 1: torch.tensor([float(k)])},
                "rng": torch.tensor([k], dtype=torch.uint8),
            }
        )
    about = {"identity": {"seed": 0}, "blocks": BLOCKS, "split": list(split)}
    return Checkpoint.of(states, step=step, wall_seconds=1.5, **about)


def refusal(path: Path) -> str:
    """The sentence that a file is refused with; the file is left alone."""
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        load_checkpoint(path)
    assert path.read_bytes() == before
    sentence = str(caught.value)
    assert sentence.startswith(f"resume: got {path}; ")
    assert "\n" not in sentence
    return sentence


def saved(content: object, **settings: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **settings)
    return buffer.getvalue()


# Writing.


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    ours = made_up()
    theirs = load_checkpoint(save_checkpoint(tmp_path, ours, keep=3))
    for field in ("step", "wall_seconds", "identity", "blocks", "split"):
        assert getattr(theirs, field) == getattr(ours, field)
    assert saved(theirs.model) == saved(ours.model)
    assert saved(theirs.stages) == saved(ours.stages)


def test_newest_are_kept_and_other_files_are_left_alone(tmp_path: Path) -> None:
    others = [tmp_path / "notes.txt", tmp_path / "step-best.pt"]
    for path in others:
        path.write_text("somebody's")
    for step in (9, 10, 99, 100):
        save_checkpoint(tmp_path, made_up(step), keep=3)
    assert [load_checkpoint(path).step for path in list_checkpoints(tmp_path)] == [10, 99, 100]
    assert all(path.read_text() == "somebody's" for path in others)


def test_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, made_up(step), keep=2)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def disk_is_full(content: object, file: io.BufferedWriter) -> None:
        file.write(b"the first bytes")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_is_full)
    for step in (2, 3):
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tmp_path, made_up(step), keep=2)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace", "unlink"):

        def record(*arguments: object, name: str = name, call: object = getattr(os, name)) -> None:
            calls.append(name)
            call(*arguments)

        monkeypatch.setattr(os, name, record)
    path = save_checkpoint(tmp_path, made_up(), keep=1)
    assert calls[:2] == ["fsync", "replace"]
    assert list(tmp_path.iterdir()) == [path]


# Reading.


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.99, 0.9999])
def test_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, made_up(), keep=1)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "the file is damaged, or is no checkpoint" in refusal(path)


FOREIGN = {
    "pickle": pickle.dumps({"model": [1, 2, 3]}),
    "state dict": saved(nn.Linear(2, 2).state_dict()),
    "state dict, legacy": saved(nn.Linear(2, 2).state_dict(), _use_new_zipfile_serialization=False),
    "tensor": saved(torch.zeros(3)),
    "whole module": saved(nn.Linear(2, 2)),
    "a line": b"epoch\n",
    "a sentence": b"Traceback (most recent call last):\n",
    "html": b"<html></html>",
    "csv": b"step,error\n1,2\n",
    "json": b'{"step": 1}',
    "png": b"\x89PNG\r\n\x1a\n",
    "without its fields": saved({"format": FORMAT, "version": VERSION}),
    "without its version": saved({"format": FORMAT}),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.pt"
    path.write_bytes(FOREIGN[name])
    assert "no checkpoint" in refusal(path)


@pytest.mark.parametrize("size", [1, 3, 10, 1000])
def test_random_bytes_are_refused(size: int, tmp_path: Path) -> None:
    generator, path = random.Random(0), tmp_path / "step-000000001.pt"
    for _ in range(50):
        path.write_bytes(generator.randbytes(size))
        assert "no checkpoint" in refusal(path)


def test_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.pt"
    path.write_bytes(saved({"format": FORMAT, "version": VERSION + 1}))
    assert f"its format is version {VERSION + 1}; this program reads {VERSION}" in refusal(path)


def test_path_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.pt"):
        with pytest.raises(ConfigError, match="it can't be read"):
            load_checkpoint(path)


class Malicious:
    """Unpickled, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.pt"
    path.write_bytes(saved({"format": FORMAT, "version": VERSION, "step": Malicious(tmp_path / "made")}))
    refusal(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [None, "checkpoints", "step-best.pt"])
def test_directory_without_a_checkpoint_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / content).touch()
    with pytest.raises(ConfigError, match="allowed: a run directory with a checkpoint in checkpoints/; there is none"):
        newest_checkpoint(tmp_path)


# Another split.


def test_same_split_gives_the_same_states() -> None:
    checkpoint = made_up()
    for k, state in enumerate(checkpoint.stage_states([2, 5, 10])):
        assert saved({key: state[key] for key in checkpoint.stages[k]}) == saved(checkpoint.stages[k])


@pytest.mark.parametrize("split", [[], [1], [2], [5, 10], [1, 5, 11], list(range(1, 12))])
def test_parameters_and_optimizer_states_follow_their_blocks(split: list[int]) -> None:
    bounds = [0, *split, len(BLOCKS)]
    for state, first, last in zip(made_up().stage_states(split), bounds, bounds[1:], strict=False):
        names = [f"{block}.weight" for block in BLOCKS[first:last]]
        assert list(state["model"]) == list(state["optimizer"]) == names
        for block, name in zip(BLOCKS[first:last], names, strict=True):
            assert state["model"][name].tolist() == [int(block)] * 2
            assert state["optimizer"][name]["momentum_buffer"].tolist() == [50 + int(block)] * 2


def test_synthesizers_are_kept_at_common_cuts_with_what_was_under_way() -> None:
    checkpoint = made_up(split=(2, 5, 10))
    states = checkpoint.stage_states([3, 5, 8])
    assert [state["method"] is None for state in states] == [True, False, True, False]
    assert states[1]["method"]["synthesizer"]["weight"] == 101
    assert states[3]["method"] == {}, "the last stage has none"
    assert [len(state["pending"]) for state in states] == [0, 1, 0, 0]
    assert [list(state["gradients"]) for state in states] == [[], [2], [], []]
    assert [state["weight_version"] for state in states] == [3, 1001, 3, 1003]


def test_random_states_are_kept_where_a_stage_has_the_same_blocks() -> None:
    states = made_up(split=(2, 5, 10)).stage_states([2, 10])
    assert [state["rng"] is not None for state in states] == [True, False, True]


@pytest.mark.parametrize(("split", "names"), [([2, 5, 10], []), ([5], []), ([3, 5, 8], ["2", "7"]), ([], [])])
def test_new_cuts_are_named_by_the_block_before(split: list[int], names: list[str]) -> None:
    assert made_up(split=(2, 5, 10)).new_cuts(split) == names


# Of another run.


SETTINGS = {"serial": True, "batch_size": 250, "method": "cdni", "lag": 2, "synthesizer_hidden": ()}


@pytest.fixture
def run_dir(small_mnist: tuple, tmp_path: Path) -> Path:
    """A run of three batches, in three stages."""
    Trainer(fcn(3, 16), run_dir=tmp_path / "run", **SETTINGS).fit(small_mnist[0], steps=3)
    return tmp_path / "run"


def with_another_block() -> nn.Sequential:
    return nn.Sequential(*fcn(3, 16), nn.Identity())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch_size": 200}, "its run had batch_size 250, this one has 200; they must be the same"),
        ({"seed": 1}, "its run had seed 0, this one has 1; they must be the same"),
        ({"method": "dni"}, "its run had method cdni, this one has dni; they must be the same"),
        ({"method": "backprop", "lag": None}, "its run had method cdni, this one has backprop; they must be the same"),
        ({"synthesizer_hidden": (8,)}, "its run had synthesizer_hidden [], this one has [8]; they must be the same"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_checkpoint_of_a_run_with_other_settings_is_refused(
    settings: dict, sentence: str, run_dir: Path, small_mnist: tuple
) -> None:
    assert sentence in refused_resume(run_dir, fcn(3, 16), small_mnist[0], **settings)


def test_checkpoint_of_a_run_on_fewer_samples_is_refused(run_dir: Path, small_mnist: tuple) -> None:
    sentence = refused_resume(run_dir, fcn(3, 16), small_mnist[1])
    assert "its run had samples 1000, this one has 500; they must be the same" in sentence


def test_checkpoint_of_a_run_on_other_samples_is_refused(run_dir: Path, small_mnist: tuple) -> None:
    # MNIST and Fashion-MNIST have the same number of samples
    x, target = small_mnist[0].tensors
    assert "they must be the same" in refused_resume(run_dir, fcn(3, 16), (-x, 9 - target))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (fcn(3, 17), "it is of another network: 0.1.weight is (16, 784) there and (17, 784) here"),
        (fcn(4, 16), "it is of another network: 2.0.bias is (10,) there and nothing here"),
        (fcn(3, 16)[:2], "it is of another network: 2.0.bias is (10,) there and nothing here"),
        (with_another_block(), "it is of another network: its blocks are 0, 1, 2 there and 0, 1, 2, 3 here"),
    ],
    ids=["width", "layers", "fewer layers", "a block without parameters"],
)
def test_checkpoint_of_another_network_is_refused(
    model: nn.Sequential, sentence: str, run_dir: Path, small_mnist: tuple
) -> None:
    workers = {"workers": len(model)}
    assert sentence in refused_resume(run_dir, model, small_mnist[0], **workers)


def test_checkpoint_with_the_state_of_another_optimizer_is_refused(small_mnist: tuple, tmp_path: Path) -> None:
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    Trainer(fcn(3, 16), run_dir=tmp_path, optimizer=sgd, **SETTINGS).fit(small_mnist[0], steps=3)
    assert "optimizer" in refused_resume(tmp_path, fcn(3, 16), small_mnist[0], optimizer=torch.optim.Adam)


def refused_resume(run_dir: Path, model: nn.Sequential, data: object, **settings: object) -> str:
    """The sentence that a resume is refused with; the run's files are left alone."""
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError) as caught:
        Trainer(model, resume=run_dir, **{**SETTINGS, **settings}).fit(data, steps=4)
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
    sentence = str(caught.value)
    assert sentence.startswith(f"resume: got {newest_checkpoint(run_dir)}; ")
    assert "\n" not in sentence
    return sentence


def test_network_loads_into_a_plain_sequential_in_three_lines(run_dir: Path) -> None:
    path = newest_checkpoint(run_dir)

    model = fcn(3, 16)
    content = torch.load(path, weights_only=True)
    model.load_state_dict(content["model"])

    trained = torch.load(run_dir / "model.pt", weights_only=True)
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
