"""Every bad input of `bad_inputs` is refused in one sentence, before anything is made or started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from bad_inputs import COMMAND_LINE, LIBRARY, BadArguments, BadUse
from test_launch import launch

from async_dni import ConfigError


@pytest.fixture(autouse=True)
def makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail where a refusal leaves a file where the program was started, or starts a worker."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    assert not list((tmp_path / "here").iterdir()), "nothing is made"
    assert not [child for child in psutil.Process().children() if child.name().startswith("stage")]


@pytest.mark.parametrize("bad", COMMAND_LINE, ids=lambda bad: bad.name)
def test_arguments_are_refused_in_one_sentence(
    bad: BadArguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = bad.make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert launch(*arguments) == 2
    output = capsys.readouterr()
    assert bad.said(tmp_path) in output.err
    assert output.err.startswith("launch.py: ")
    assert output.err.count("\n") == 1
    assert output.err[:-1].isprintable()
    assert not output.out
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("bad", LIBRARY, ids=lambda bad: f"{bad.name}: {bad.sentence[:40]}")
def test_what_cannot_be_trained_is_refused_in_one_sentence(bad: BadUse, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        bad.fit(tmp_path / "run")
    assert bad.sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_each_is_another_input() -> None:
    assert len({(bad.arguments, bad.prepare) for bad in COMMAND_LINE}) == len(COMMAND_LINE) > 60
    assert len({bad.name for bad in COMMAND_LINE}) == len(COMMAND_LINE)
    assert len({(bad.name, bad.sentence) for bad in LIBRARY}) == len(LIBRARY) > 40
