"""Objects that are named by a file or module: found, or refused with what is there."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

from async_dni import MODELS, ConfigError
from async_dni.foundation.reference import is_reference, load, reference, registered_or_reference, resolved
from async_dni.learning.pickling import to_bytes

SOURCE = """
import beside_it
from math import sqrt

PI = 3
class Net:
    def make(self): pass
    @staticmethod
    def build(): return beside_it.VALUE
def make(width): return ("made", width, beside_it.VALUE)
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is imported here is forgotten."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.unregister_pickle_by_value(sys.modules[name])
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "its_net.py").write_text(SOURCE)
    (tmp_path / "beside_it.py").write_text("VALUE = 7")
    return tmp_path


def test_function_of_a_file_which_may_import_what_lies_beside_it(folder: Path) -> None:
    make = load("model", f"{folder}/its_net.py:make")
    assert make(3) == ("made", 3, 7)
    assert load("model", f"{folder}/its_net.py:Net.build")() == 7
    assert load("data", f"{folder}/../{folder.name}/its_net.py:make") is make, "a file is imported once"
    assert make.__module__ == "its_net"


def test_another_process_with_the_same_path_unpickles_what_is_of_a_file(folder: Path) -> None:
    sent = pickle.dumps(load("model", f"{folder}/its_net.py:make"))
    program = f"import sys, pickle; sys.path = {sys.path!r}; print(pickle.loads({sent!r})(2))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == (
        "('made', 2, 7)\n"
    )


def test_file_whose_name_another_module_has_gets_a_name_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("def make(): return 1")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "random.py").write_text("def make(): return 2")
    (tmp_path / "not-a name.py").write_text("def make(): return 3")
    found = [load("model", f"{tmp_path}/{name}:make") for name in ("random.py", "other/random.py", "not-a name.py")]
    assert [make() for make in found] == [1, 2, 3]
    for make in found[:2]:
        assert make.__module__.startswith("random_")
        sent = to_bytes(make)
        program = f"import pickle; print(pickle.loads({sent!r})())"
        said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
        assert said == f"{make()}\n", "another process has it by value"
    assert sys.modules["random"] is random


def test_file_of_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert load("model", "its_net.py:make")(1) == ("made", 1, 7)
    assert load("model", "its_net:make")(1) == ("made", 1, 7)


def test_function_of_a_module() -> None:
    assert load("model", "async_dni.network.models:fcn") is MODELS["fcn"].make
    assert load("model", "math:sqrt")(9) == 3


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("{}/none.py:make", "there is no file {}/none.py; allowed: path/to/file.py:name or package.module:name"),
        ("{}/none:make", "there is no file {}/none; allowed: "),
        ("{}:make", "there is no file {}; allowed: "),
        ("none.such:make", "none.such can't be imported (ModuleNotFoundError: No module named 'none')"),
        ("..:make", ".. can't be imported ("),
        ("{}/broken.py:make", "{}/broken.py can't be imported (SyntaxError: "),
        ("{}/raises.py:make", "{}/raises.py can't be imported (ZeroDivisionError: division by zero)"),
        ("{}/exits.py:make", "{}/exits.py can't be imported (SystemExit: 3)"),
        ("{}/misses.py:make", "{}/misses.py can't be imported (FileNotFoundError: "),
        ("{}/bytes.py:make", "{}/bytes.py can't be imported (SyntaxError: "),
        ("{}/its_net.py:build", "{}/its_net.py has no build; allowed: Net, make"),
        ("{}/its_net.py:Net.none", "{}/its_net.py has no Net.none; allowed: Net, make"),
        ("{}/its_net.py:PI", "PI is int; allowed: a function or a class of it, such as Net, make"),
        ("{}/beside_it.py:make", "{}/beside_it.py has no make; allowed: none"),
        ("its_net.py", "allowed: path/to/file.py:name or package.module:name"),
        ("its_net.py:", "allowed: path/to/file.py:name or package.module:name"),
        (":make", "allowed: path/to/file.py:name or package.module:name"),
        ("its_net.py:a b", "allowed: path/to/file.py:name or package.module:name"),
        ("a\0b.py:make", "allowed: path/to/file.py:name or package.module:name"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(folder: Path, named: str, said: str) -> None:
    (folder / "broken.py").write_text("def make(:")
    (folder / "raises.py").write_text("1 / 0")
    (folder / "exits.py").write_text("raise SystemExit(3)")
    (folder / "misses.py").write_text("open('gone.txt')")
    (folder / "bytes.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError) as caught:
        load("model", named.format(folder))
    assert caught.value.setting == "model"
    assert caught.value.given == named.format(folder)
    assert caught.value.allowed.startswith(said.format(folder)), caught.value.allowed
    assert not (folder / "__pycache__").exists(), "nothing is written"


def test_a_file_is_found_from_any_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert resolved("its_net.py:Net.of") == f"{folder.resolve()}/its_net.py:Net.of"
    assert [resolved(name) for name in ("fcn", "package.module:make", None)] == ["fcn", "package.module:make", None]


def test_module_that_failed_is_tried_again(folder: Path) -> None:
    (folder / "late.py").write_text("1 / 0")
    with pytest.raises(ConfigError):
        load("model", f"{folder}/late.py:make")
    (folder / "late.py").write_text("def make(): return 4")
    assert load("model", f"{folder}/late.py:make")() == 4


def test_reference_has_a_colon_and_a_name_of_a_registry_has_none() -> None:
    assert is_reference("a:b")
    assert not is_reference("fcn")
    assert not is_reference(None)
    check = registered_or_reference(MODELS)
    assert check("fcn") is None
    assert check("a.b:c") is None
    assert reference("fcn") == "allowed: path/to/file.py:name or package.module:name"
    assert check("fnc") == f"allowed: {', '.join(MODELS)}, or path/to/file.py:name or package.module:name"
