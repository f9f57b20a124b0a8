"""Whatever is typed, `launch.py` trains or refuses in one sentence: exit status 0 or 2, and never a traceback."""

from __future__ import annotations

import dataclasses
import io
from contextlib import redirect_stderr, redirect_stdout
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_launch import launch

from async_dni import ConfigError, ExperimentConfig, ImageDataset, Trainer, TrainerConfig, TrainResult, train
from async_dni.cli import flag
from async_dni.data import sets
from async_dni.fit.prepare import find_run_dir
from async_dni.fit.stream import make_stream

FIELDS = {
    flag(field.name): field for config in (TrainerConfig, ExperimentConfig) for field in dataclasses.fields(config)
}
SWITCHES = [name for name, field in FIELDS.items() if field.metadata["parser"].get("action") == "store_true"]
# 10^6 units would be allowed, and take their time
NUMBERS = st.integers(-3, 70) | st.sampled_from([600, 1025, 10**6 + 1, 2**32 - 1, 2**32, 2**63, 10**30, -(2**63)])
FLOATS = st.floats().map(str) | st.sampled_from(["1e-3", "1e400", "-0", "1_0", "0x10", "1e-400", ".5", "5."])
LISTS = st.lists(NUMBERS, max_size=4).map(lambda numbers: ",".join(map(str, numbers)))
# no NUL, which no argument can hold; surrogates stand for bytes that are no UTF-8
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=())) | st.sampled_from(
    [".", "..", "/", "~", "-", "--", "=", "%s", "%", "{}", "\n", "\x1b[2J", "x" * 300, "9" * 5000, "²", "١٢", "nan", ""]
)


def values(name: str) -> st.SearchStrategy[str]:
    """What an option takes, in every other case, and what it doesn't."""
    choices = FIELDS[name].metadata["parser"].get("choices", ("1", "2", "3", "0.5"))
    return st.sampled_from(choices) | st.one_of(NUMBERS.map(str), FLOATS, LISTS, TEXTS)


def given_as(name: str) -> st.SearchStrategy[list[str]]:
    """An option with a value, in both ways to write it; a switch."""
    if name in SWITCHES:
        return st.just([name])
    return values(name).flatmap(lambda value: st.sampled_from([[name, value], [f"{name}={value}"]]))


OPTIONS = st.lists(st.sampled_from(sorted(FIELDS)).flatmap(given_as), max_size=3)
STRAY = (
    TEXTS.map(lambda text: [text])
    | TEXTS.map(lambda text: [f"--{text}"])
    | st.sampled_from(sorted(FIELDS)).map(lambda name: [name])
)
SOMETIMES_STRAY = st.integers(0, 7).flatmap(lambda number: STRAY if number == 7 else st.just([]))
ARGUMENTS = st.builds(lambda options, stray: [*chain(*options), *stray], OPTIONS, SOMETIMES_STRAY)


def load_dataset(
    name: str, data_dir: Path | None, image_size: int | None, sequence_length: int | None
) -> tuple[ImageDataset, ImageDataset]:
    """A small data set in place of a download; what is said of a directory is real."""
    if data_dir is not None or sequence_length is not None:
        return sets.load_dataset("mnist", data_dir, image_size, sequence_length)
    size = image_size or 28
    made = ImageDataset(torch.zeros(600, 1, size, size, dtype=torch.uint8), torch.zeros(600).long(), [0.5], [0.5])
    return made, made


def fit(self: Trainer, train_set: Any, *, epochs: int | None, steps: int | None, **rest: Any) -> TrainResult:
    """What `Trainer.fit` looks at first, and no training."""
    make_stream(self.job, train_set, epochs, steps)
    run_dir = find_run_dir(self.config, None)
    if self.config.resume is not None:
        raise ConfigError("resume", self.config.resume, "nothing is to be resumed here")
    summary = {"method": self.config.method, "num_workers": 0, "steps": 1, "samples": 1, "wall_seconds": 1.0}
    summary |= {"samples_per_second": 1.0, "test_error": None, "workers": []}
    return TrainResult(self.model, None, [], summary, run_dir and run_dir.path, None, [])


@given(ARGUMENTS)
@settings(derandomize=True, database=None, deadline=None, max_examples=300)
def check_arguments(arguments: list[str]) -> None:
    with redirect_stdout(io.StringIO()) as output, redirect_stderr(io.StringIO()) as errors:
        status = launch(*arguments)
    said = errors.getvalue()
    assert status in (0, 2), said
    if status == 0:
        assert not said
        assert output.getvalue()
        return
    assert said.startswith("launch.py: ")
    assert said.endswith("\n")
    assert said[:-1].isprintable(), "one line"
    assert "--" in said or "unrecognized arguments" in said, "what it is about"
    assert not output.getvalue()


def test_any_arguments_are_trained_with_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "load_dataset", load_dataset)
    monkeypatch.setattr(Trainer, "fit", fit)
    check_arguments()
    assert not list(tmp_path.iterdir())


def test_options_that_are_fuzzed_are_those_that_there_are() -> None:
    assert {"--lr", "--workers", "--resume", "--device-map", "--serial"} <= set(FIELDS)
    assert "--serial" in SWITCHES
