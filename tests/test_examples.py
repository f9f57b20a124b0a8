"""The examples run as they are, and say what they are to say."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import nbformat
import pytest
from conftest import RunApart

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
FASHION = Path("/usr/share/datasets/fashion-mnist")

# what each prints: a pattern, and the most that its numbers may be
PRINTS = {
    "mnist_mlp": (r"test error (\S+) %", 10.0),
    "own_network": (r"test error (\S+) %", 20.0),
    "own_synthesizer": (r"test error (\S+) %", 10.0),
    "own_data": (r"test error (\S+) %", 35.0),
    "char_transformer": (r"(\S+) bits", 4.5),
    "fashion_cnn": (r"test error (\S+) %", 25.0),
}


TRACKERS = ("wandb_callback", "mlflow_callback")  # of what is no dependency


def test_every_example_is_tried() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*PRINTS, *TRACKERS}
    assert [path.name for path in EXAMPLES.glob("*.ipynb")] == ["notebook.ipynb"]


@pytest.mark.parametrize("name", PRINTS)
def test_example_runs_as_it_is(name: str, tmp_path: Path, run_apart: RunApart) -> None:
    if name == "fashion_cnn" and not FASHION.is_dir():
        pytest.skip("it downloads Fashion-MNIST, where Debian's package dataset-fashion-mnist is not installed")
    status, output, errors = run_apart(EXAMPLES / f"{name}.py", tmp_path)
    assert (status, errors) == (0, "")
    pattern, most = PRINTS[name]
    numbers = [float(number) for number in re.findall(pattern, output)]
    assert numbers
    assert max(numbers) < most, output
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_notebook_runs_cell_by_cell(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    run = (
        "import sys, nbclient, nbformat\n"
        "notebook = nbformat.read(sys.argv[1], as_version=4)\n"
        "nbclient.NotebookClient(notebook, timeout=600, kernel_name='python3').execute()\n"
        "nbformat.write(notebook, sys.argv[2])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path / "ipython")}
    command = [sys.executable, "-c", run, str(EXAMPLES / "notebook.ipynb"), str(tmp_path / "ran.ipynb")]
    subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=True)
    ran = nbformat.read(tmp_path / "ran.ipynb", as_version=4)
    assert [cell.source for cell in ran.cells] == [cell.source for cell in notebook.cells]
    said = ran.cells[-1].outputs[0].text
    assert len(re.findall(r"^epoch \d", said, re.MULTILINE)) == 6
    assert len(re.findall(r"^stage \d: .* 240 updates$", said, re.MULTILINE)) == 3
    assert float(ran.cells[-3].outputs[0].data["text/plain"]) < 30  # per cent, by chance 50


class Calls:
    """Stands in for a tracker's module: keeps what is called, by its dotted name, and answers with more of itself."""

    def __init__(self, name: str = "", made: list[tuple[str, tuple[Any, ...], dict[str, Any]]] | None = None) -> None:
        self._name, self.made = name, [] if made is None else made

    def __getattr__(self, name: str) -> Calls:
        return Calls(f"{self._name}.{name}".lstrip("."), self.made)

    def __call__(self, *given: Any, **settings: Any) -> Calls:
        self.made.append((self._name, given, settings))
        return Calls(self._name, self.made)

    def __setitem__(self, name: str, value: Any) -> None:
        self.made.append((f"{self._name}[{name}]", (value,), {}))


@pytest.mark.parametrize("name", TRACKERS)
def test_trackers_are_told_of_the_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Calls()
    monkeypatch.setitem(sys.modules, name.split("_")[0], cast(Any, tracker))
    monkeypatch.syspath_prepend(EXAMPLES)
    result = importlib.import_module(name).main(steps=20, run_dir=tmp_path / "run")
    called = [what for what, _, _ in tracker.made]
    if name == "wandb_callback":
        assert (called[0], called[-1]) == ("init", "init.finish")
        assert tracker.made[0][2]["config"]["method"] == "cdni"
        logged = [given[0] for what, given, _ in tracker.made if what == "init.log"]
        assert {"batches": 20, "test/error": result.test_error, "test/loss": result.history[-1].test_loss} in logged
        assert {f"stage/{k}/batches" for k in range(3)} <= {key for values in logged for key in values}
        assert "init.log_artifact" in called
    else:
        assert (called[0], called[-1]) == ("set_experiment", "end_run")
        logged = [(given[0], settings["step"]) for what, given, settings in tracker.made if what == "log_metrics"]
        assert ({"test_loss": result.history[-1].test_loss, "test_error": result.test_error}, 20) in logged
        assert called.count("log_artifact") == 3
