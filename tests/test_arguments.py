"""Arguments for a user's function: read as they are typed, held against what it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from async_dni import ConfigError
from async_dni.foundation.arguments import arguments, call, read_arguments, split_arguments


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("depth=20", {"depth": 20}),
        ("depth=20,width=16", {"depth": 20, "width": 16}),
        ("depth=20, width = 16", {"depth": 20, "width": 16}),
        ("widths=(1,2),rate=1e-3,name=resnet", {"widths": (1, 2), "rate": 1e-3, "name": "resnet"}),
        ("a=True,b=None,c=[1],d={'x': 1}", {"a": True, "b": None, "c": [1], "d": {"x": 1}}),
        ("a='1',b=1,2,c=", {"a": "1", "b": (1, 2), "c": ""}),
        ("path=/tmp/a,b.txt,x=y=z", {"path": "/tmp/a,b.txt", "x": "y=z"}),
        ("a=-3", {"a": -3}),
        ("a=__import__('os').getcwd()", {"a": "__import__('os').getcwd()"}),
        ("größe=3", {"größe": 3}),
    ],
)
def test_values_are_literals_or_texts(text: str, values: dict[str, Any]) -> None:
    assert arguments(split_arguments(text)) is None
    assert read_arguments(split_arguments(text)) == values


@pytest.mark.parametrize("text", ["", "depth", "=3", "3=4", "a b=3", "a=1,a=2", ",a=1"])
def test_what_is_no_argument_is_refused(text: str) -> None:
    assert str(arguments(split_arguments(text))).startswith("allowed: name=value, ")


def test_no_arguments_are_fine() -> None:
    assert arguments(()) is None
    assert read_arguments(()) == {}


def plain(width: int, depth: int = 2) -> Any:
    return width, depth


def shaped(input_shape: Any, *, num_classes: int = -1) -> Any:
    return input_shape, num_classes


def anything(**settings: Any) -> Any:
    return settings


def refused() -> Any:
    raise ConfigError("data", "-", "no labels")


OFFERED = {"input_shape": lambda: (3, 8), "num_classes": lambda: 5}


@pytest.mark.parametrize(
    ("make", "given", "made"),
    [
        (plain, {"width": 3}, (3, 2)),
        (shaped, {}, ((3, 8), 5)),
        (shaped, {"num_classes": 7}, ((3, 8), 7)),
        (anything, {"a": 1}, {"a": 1, "input_shape": (3, 8), "num_classes": 5}),
        (dict, {"a": 1}, {"a": 1}),
    ],
)
def test_function_gets_what_is_given_and_what_it_takes_of_what_is_offered(
    make: Callable[..., Any], given: dict[str, Any], made: Any
) -> None:
    assert call("model", "net.py:make", make, given, OFFERED) == made


def test_what_can_not_be_had_is_left_out_where_the_function_can_do_without() -> None:
    offered: dict[str, Callable[[], Any]] = {"input_shape": lambda: (3,), "num_classes": refused}
    assert call("model", "net.py:make", shaped, {}, offered) == ((3,), -1)
    with pytest.raises(ConfigError, match="data: got -; no labels"):
        call("model", "net.py:make", shaped, {}, {**offered, "input_shape": refused})


@pytest.mark.parametrize(
    ("make", "given", "said"),
    [
        (plain, {"width": 1, "heads": 2}, "model_arg: got heads=2; make takes width, depth"),
        (lambda: 0, {"heads": 2}, "model_arg: got heads=2; make takes no arguments"),
        (plain, {}, "model: got net.py:make; make needs width; give --model-arg width=…"),
        (
            lambda x: 1 // 0,
            {"x": 1},
            "model: got net.py:make; make raised ZeroDivisionError: integer division or modulo",
        ),
        (lambda: exit(3), {}, "model: got net.py:make; make raised SystemExit: 3"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(make: Callable[..., Any], given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call("model", "net.py:make", make, given, {})
    assert str(caught.value).startswith(said)
