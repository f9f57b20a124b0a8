"""A run's records as TensorBoard reads them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from async_dni import ConfigError, Trainer, fcn
from async_dni.look.main import main as look
from async_dni.record.problems import Problems
from async_dni.record.progress import Progress
from async_dni.record.reading.run_reader import RunReader
from async_dni.view import tensorboard as written
from async_dni.view.tensorboard import TAGS, TensorBoardProgress, confusion_image

reading: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "looking_at_runs.md"


def train(run_dir: Path | None, epochs: int = 1, **settings: Any) -> Any:
    data = torch.randn(60, 1, 28, 28), torch.arange(60) % 10
    given = {"workers": 3, "batch_size": 10, "tensorboard": True, "gradient_check_every": 3, "lag": 1, **settings}
    return Trainer(fcn(3, 8), run_dir=run_dir, **given).fit(data, epochs=epochs, eval_set=data)


def read(folder: Path) -> Any:
    accumulator = reading.EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("board") / "run"
    train(path)
    return path


def shape_of(tag: str) -> str:
    """A tag as `TAGS` names it."""
    tag = re.sub(r"^stage/\d+/", "stage/<k>/", tag)
    for start, end in (("time/", "<phase>"), ("queue/", "<name>"), ("gradient/", "<which>/<measure>")):
        tag = re.sub(rf"^(stage/<k>/{start}).*", rf"\g<1>{end}", tag)
    return tag


def test_there_is_one_run_with_the_tags_that_are_documented(run: Path) -> None:
    (file,) = [path for path in (run / "tensorboard").rglob("*") if path.is_file()]
    found = read(run / "tensorboard").Tags()
    tags = {shape_of(tag) for tag in [*found["scalars"], *found["images"]]}
    assert tags == set(TAGS) - {"test/metric/<name>", "run/note"}
    text = DOCUMENT.read_text()
    assert [tag for tag in TAGS if f"`{tag}`" not in text] == []


def test_numbers_are_those_of_the_records(run: Path) -> None:
    board, records = read(run / "tensorboard"), RunReader(run)
    for tag, of in (("test/error", "test_error"), ("test/loss", "test_loss")):
        wanted = [(each["step"], pytest.approx(each[of])) for each in records.evaluations]
        assert [(event.step, event.value) for event in board.Scalars(tag)] == wanted
    for k, own in records.records.items():
        rates = board.Scalars(f"stage/{k}/samples_per_second")
        assert [(e.step, e.wall_time) for e in rates] == [(r["step"], pytest.approx(r["time"])) for r in own]
        assert [e.value for e in rates] == [pytest.approx(r["samples_per_second"], rel=1e-5) for r in own]
    check = records.gradient_checks[0]
    cosine = board.Scalars("stage/0/gradient/synthetic/cosine")[0]
    assert (cosine.step, cosine.value) == (
        check["step"],
        pytest.approx(check["stages"][0]["synthetic"]["cosine"], rel=1e-5),
    )


def test_settings_and_the_confusion_matrix_are_there(run: Path) -> None:
    board = read(run / "tensorboard")
    content = board.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"cdni" in content
    (image,) = board.Images("test/confusion")
    assert (image.width, image.height) == (180, 180)


def test_the_darkest_cell_is_the_largest_share() -> None:
    image = confusion_image([[9, 1], [0, 0]])
    darkness = 255 - image[9::18, 9::18].mean(2)
    assert darkness[0, 0] > darkness[0, 1] > darkness[1, 0] == 0


def test_a_finished_run_is_written_afterwards(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert look(["tensorboard", str(run), "--out", str(tmp_path / "board")]) == 0
    one, other = read(run / "tensorboard"), read(tmp_path / "board")
    assert set(one.Tags()["scalars"]) == set(other.Tags()["scalars"])
    for tag in one.Tags()["scalars"]:
        assert [(e.step, e.value) for e in one.Scalars(tag)] == [(e.step, e.value) for e in other.Scalars(tag)], tag
    assert look(["tensorboard", str(run)]) == 2
    assert "it has records already" in capsys.readouterr().err
    assert look(["tensorboard", str(run), "--out", "/dev/null/board"]) == 2


def test_a_run_that_goes_on_has_each_step_once(tmp_path: Path) -> None:
    train(tmp_path / "run", epochs=2, checkpoint_every=3)
    for path in (tmp_path / "run" / "checkpoints").glob("*"):
        if path.name != "step-000000006.pt":
            path.unlink()
    train(None, resume=tmp_path / "run", epochs=3)
    steps = [event.step for event in read(tmp_path / "run" / "tensorboard").Scalars("test/error")]
    assert steps == sorted(set(steps))
    assert steps[-1] == 18


def test_what_it_needs_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="it is written to the run directory; allowed with run_dir"):
        train(None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"it needs tensorboard: pip install 'async-dni\[tensorboard\]'"):
        train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_disk_that_is_full_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    problems = Problems(told.append)
    progress = TensorBoardProgress(Progress(), tmp_path / "board", problems, 0)

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(written.TensorBoardFile, "note", full)
    progress.on_note("one")
    progress.on_restart(0, "two")
    progress.on_closed()
    assert told == [f"{tmp_path / 'board'} can't be written (No space left on device)"]
