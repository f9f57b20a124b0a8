"""The operations of a module's forward, as a `torch.fx` graph."""

from __future__ import annotations

import inspect
import linecache
import re
import traceback
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..foundation.error import ConfigError, reason

_TORCH = str(Path(torch.__file__).parent)
_CONSTANT = "_tensor_constant"  # fx puts tensors that a forward makes itself into the module under such names


class _Tracer(fx.Tracer):
    """Looks into the modules of these names, and takes all others as one operation each."""

    def __init__(self, opened: Collection[str]) -> None:
        super().__init__()
        self.opened = opened
        self.record_stack_traces = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.opened


def trace(model: nn.Module, opened: Collection[str]) -> tuple[fx.Graph, dict[str, Tensor]]:
    """The graph of a forward of one argument, and the tensors that it makes without looking at that, by name.

    The modules named in `opened` are looked into, and the model itself. Raises `ConfigError` where it can't be followed.
    """
    before = set(vars(model))
    optional = _optional_arguments(model)
    try:
        graph = _Tracer(opened).trace(model, concrete_args=optional or None)
    except ConfigError:
        raise
    except Exception as error:
        raise _unfollowed(model, error) from error
    finally:
        made = {name: value for name, value in vars(model).items() if name.startswith(_CONSTANT) and name not in before}
        for name in made:
            delattr(model, name)
    for node in [node for node in graph.nodes if node.op == "placeholder"][1:]:
        _erase(graph, node)  # an argument with a default has it; what looks at that is an assertion
    return graph, made


def line_of(node: fx.Node) -> str:
    """The line of a forward that a node comes of: where it is, and what is on it."""
    found = re.findall(r'File "(.*?)", line (\d+), in .*\n\s*(.*)', node.stack_trace or "")
    own = [(file, line, code) for file, line, code in found if not file.startswith(_TORCH) and file != __file__]
    return f"line {own[-1][1]} of {own[-1][0]}, `{own[-1][2].strip()}`," if own else f"`{node.format_node()}`"


def _optional_arguments(model: nn.Module) -> dict[str, Any]:
    """The arguments of a forward that have defaults. Raises `ConfigError` unless there is one that has none."""
    parameters = inspect.signature(model.forward).parameters.values()
    kind = f"{type(model).__name__}.forward"
    named = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    needed = [p.name for p in named if p.default is p.empty]
    if len(needed) != 1 or len(named) != len(parameters) or named[0].name != needed[0]:
        takes = ", ".join(p.name for p in parameters) or "nothing"
        allowed = "allowed: one argument, others with defaults"
        raise ConfigError("split_points", type(model).__name__, f"{kind} takes {takes}; {allowed}")
    return {p.name: p.default for p in named if p.default is not p.empty}


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    for user in list(node.users):
        _erase(graph, user)
    graph.erase_node(node)


def _unfollowed(model: nn.Module, error: Exception) -> ConfigError:
    """Names the line of a forward that fx can't follow, and what is on it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_TORCH) and frame.filename != __file__]
    kind = type(model).__name__
    where = "its forward can't be followed"
    if own:
        line = (own[-1].line or linecache.getline(own[-1].filename, own[-1].lineno or 0)).strip()
        where = f"line {own[-1].lineno} of {own[-1].filename}, `{line}`, can't be followed"
    allowed = "allowed: cuts beside what looks at values; it may be done in a submodule of its own"
    return ConfigError("split_points", kind, f"{where} ({reason(error)}); {allowed}")
