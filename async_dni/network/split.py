"""Any module whose forward is a chain, cut at named submodules into an `nn.Sequential` of blocks.

The forward is followed by `torch.fx`, once in training and once in evaluation. Only modules that hold a cut are looked into;
each other submodule is one operation, whatever it does. A cut falls before the first operation of a named submodule, as with
`SplitPoint.BEGINNING` of torch.distributed.pipelining; what is computed before it and used after it crosses it: a tensor, or a
tuple of them. Where a later block asks for the size of the batch, it is that of its own input.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..foundation.error import ConfigError
from .graph_block import Function, GraphBlock, Program, Step, Value, mapped, rows
from .tracing import line_of, trace

SHOWN = 20  # names in a sentence
_ARITHMETIC = (
    operator.getitem,
    operator.add,
    operator.sub,
    operator.mul,
    operator.floordiv,
    operator.mod,
    operator.neg,
)


class SplitNetwork(nn.Sequential):
    """The blocks of a module that was split. Their parameters are the module's own: training them trains it.

    Block k names them `k.<name in the module>`.
    """

    def __init__(self, *blocks: Any, whole: nn.Module | None = None) -> None:
        super().__init__(*blocks)
        self._whole = (whole,)  # in a tuple: it is no block

    def joined(self) -> nn.Module:
        """The module that was split, with the parameters and buffers that the blocks have now."""
        whole = self._whole[0]
        if whole is None:  # of a slice
            return self
        state = {name.split(".", 1)[1]: value for name, value in self.state_dict().items()}
        whole.load_state_dict(state, strict=False)  # what its forward never uses is in no block
        return whole.train(self.training)


def joined(model: nn.Module) -> nn.Module:
    """The user's own module, where a network is one that was split."""
    return model.joined() if isinstance(model, SplitNetwork) else model


def split(model: nn.Module, split_points: Sequence[str]) -> SplitNetwork:
    """A module as blocks, cut before each of these submodules. Blocks and module share parameters, and so training.

    Raises `ConfigError` for a name that the module does not have or use, and where its forward can't be followed.
    """
    _check_names(model, split_points)
    opened = {point[:i] for point in split_points for i, char in enumerate(point) if char == "."}
    modes = {name: module.training for name, module in model.named_modules()}
    graphs: dict[bool, fx.Graph] = {}
    constants: dict[bool, dict[str, Tensor]] = {}
    try:
        with torch.random.fork_rng(devices=[]):  # once for both: random numbers are to come out differently
            for training in (True, False):
                if model.training is not training:  # a module in training may have submodules that are not
                    model.train(training)
                graphs[training], constants[training] = trace(model, opened)
    finally:
        for name, module in model.named_modules():
            module.training = modes[name]
    _check_constants(model, constants)
    programs = {training: _programs(graph, split_points) for training, graph in graphs.items()}
    blocks = []
    for both in zip(programs[True], programs[False], strict=True):
        if len(both[0].inputs) != len(both[1].inputs):
            found = "in training and in evaluation, not the same values cross a cut"
            raise ConfigError("split_points", split_points, f"{found}; allowed: cuts elsewhere")
        blocks.append(_block(model, both, constants[True]))
    network = SplitNetwork(*blocks, whole=model)
    for block in blocks:
        block.training = model.training
    network.training = model.training
    return network


def _check_names(model: nn.Module, split_points: Sequence[str]) -> None:
    names = [name for name, _ in model.named_modules() if name]
    for number, point in enumerate(split_points):
        if point not in names:
            shown = f"{', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''}"
            raise ConfigError("split_points", point, f"the network has no such submodule; allowed: {shown or 'none'}")
        if point in split_points[:number]:
            raise ConfigError("split_points", point, "it is named twice; allowed: each submodule once")


def _check_constants(model: nn.Module, constants: dict[bool, dict[str, Tensor]]) -> None:
    """Raise `ConfigError` where a forward makes tensors that are not always the same: they would be, in blocks."""
    first, second = constants[True], constants[False]
    same = list(first) == list(second) and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )
    if not same:
        found = "its forward makes tensors of random numbers, or others in training than in evaluation"
        raise ConfigError("split_points", type(model).__name__, f"{found}; allowed: in a submodule that is not cut")


def _programs(graph: fx.Graph, split_points: Sequence[str]) -> list[Program]:
    """What each block does, in one mode."""
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
    (given,) = (node for node in graph.nodes if node.op == "placeholder")
    (output,) = (node for node in graph.nodes if node.op == "output")
    cuts = _cuts(nodes, split_points)
    bounds = [0, *cuts, len(nodes)]
    after: list[set[fx.Node]] = [set(output.all_input_nodes)]  # needed after a bound, the last bound's first
    for first, last in zip(reversed(bounds[:-1]), reversed(bounds[1:]), strict=True):
        after.append(after[-1] | {needed for node in nodes[first:last] for needed in node.all_input_nodes})
    order = {node: place for place, node in enumerate(graph.nodes)}
    programs, inputs = [], [given]
    for first, last, needed in zip(bounds, bounds[1:], reversed(after[:-1]), strict=False):
        so_far = {given, *nodes[:last]}
        crossing = sorted((node for node in needed & so_far if not _is_batch_size(node, given)), key=order.__getitem__)
        _check_crossing(crossing, cuts.get(last, ""))
        result = output.args[0] if last == len(nodes) else crossing[0] if len(crossing) == 1 else tuple(crossing)
        programs.append(_program(inputs, nodes[first:last], result, given))
        inputs = crossing
    return programs


def _check_crossing(crossing: Sequence[fx.Node], point: str) -> None:
    """Raise `ConfigError` where a size would cross a cut: stages pass tensors."""
    for node in crossing if point else ():
        if _is_size(node):
            found = f"{line_of(node)} gives a size before the cut, which is used after it"
            raise ConfigError("split_points", point, f"{found}; allowed: to ask for it there")


def _is_size(node: fx.Node) -> bool:
    """Whether a node is a size, or computed of sizes alone."""
    if node.op == "call_method" and node.target in ("size", "dim", "numel"):
        return True
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("shape", "ndim")
    is_computed = node.op == "call_function" and node.target in _ARITHMETIC
    return is_computed and bool(node.all_input_nodes) and all(map(_is_size, node.all_input_nodes))


def _cuts(nodes: Sequence[fx.Node], split_points: Sequence[str]) -> dict[int, str]:
    """The first node of each of these submodules, in their order. Raises `ConfigError` where one has none, or is the first."""
    found: dict[int, str] = {}
    for point in split_points:
        place = next((place for place, node in enumerate(nodes) if _is_in(node, point)), None)
        if place is None:
            raise ConfigError(
                "split_points", point, "the forward does not use this submodule; allowed: one that it does"
            )
        if not place:
            raise ConfigError("split_points", point, "nothing is computed before it; allowed: a later submodule")
        if place in found:
            both = f"it begins where {found[place]} does"
            raise ConfigError("split_points", point, f"{both}; allowed: one of the two")
        found[place] = point
    return dict(sorted(found.items()))


def _is_in(node: fx.Node, name: str) -> bool:
    """Whether a node is of a submodule, or of what is in it."""
    stack: Iterable[Any] = node.meta.get("nn_module_stack", {}).values()
    inside = [qualified for qualified, _ in stack] + ([str(node.target)] if node.op == "call_module" else [])
    return any(f"{other}.".startswith(f"{name}.") for other in inside)


def _is_batch_size(node: fx.Node, given: fx.Node) -> bool:
    """Whether a node is the number of rows of the module's own input."""
    if node.op == "call_method" and node.target == "size":
        return node.args == (given, 0)
    if node.op == "call_function" and node.target is operator.getitem and node.args[1] == 0:
        of = node.args[0]
        assert isinstance(of, fx.Node)
        return (of.op == "call_method" and of.target == "size" and of.args == (given,)) or (
            of.op == "call_function" and of.target is getattr and of.args == (given, "shape")
        )
    return False


def _program(inputs: Sequence[fx.Node], nodes: Sequence[fx.Node], result: Any, given: fx.Node) -> Program:
    """One block's. Tensors of the module are looked up where they are used; what is not needed any more is freed."""
    there, steps = set(inputs), list[Step]()

    def prepare(needed: fx.Node) -> None:
        if needed in there:
            return
        there.add(needed)
        if needed.op == "get_attr":
            steps.append(Step(needed.name, "get_attr", str(needed.target), (), {}))
        else:  # the size of the batch, which an earlier block asked for
            steps.append(Step(needed.name, "call_function", Function(rows), (Value(inputs[0].name),), {}))

    for node in nodes:
        for needed in node.all_input_nodes:
            prepare(needed)
        there.add(node)
        target = node.target if isinstance(node.target, str) else Function(node.target)
        steps.append(Step(node.name, node.op, target, _plain(node.args), _plain(node.kwargs)))
    fx.node.map_arg(result, prepare)
    output = _plain(result)
    return Program(tuple(node.name for node in inputs), _freeing(steps, output, [n.name for n in inputs]), output)


def _plain(structure: Any) -> Any:
    """Arguments of a node, with values in place of nodes."""
    return Value(structure.name) if isinstance(structure, fx.Node) else mapped(structure, _plain)


def _freeing(steps: Sequence[Step], output: Any, inputs: Sequence[str]) -> tuple[Step, ...]:
    kept, freeing = _names(output), list[Step]()
    for step in reversed(steps):
        used = _names((step.args, step.kwargs)) | {step.name}
        frees = tuple(sorted(used - kept))
        freeing.append(Step(step.name, step.kind, step.target, step.args, step.kwargs, frees))
        kept |= used
    return tuple(reversed(freeing))


def _names(structure: Any) -> set[str]:
    """Names of the values in a structure."""
    found = set[str]()

    def look(part: Any) -> None:
        if isinstance(part, Value):
            found.add(part.name)
        mapped(part, look)

    look(structure)
    return found


def _block(model: nn.Module, both: tuple[Program, Program], constants: dict[str, Tensor]) -> GraphBlock:
    """The block, with what its programs use of the module."""
    block = GraphBlock(*both)
    paths = {str(s.target): s.kind for program in both for s in program.steps if s.kind in ("call_module", "get_attr")}
    order = {name: place for place, (name, _) in enumerate(model.named_modules())}
    # in the module's order, in which a submodule stands before what is in it; its own tensors before its submodules
    for path in sorted(paths, key=lambda path: order.get(path, order.get(path.rpartition(".")[0], 0))):
        if path in constants:
            block.hold(path, constants[path], persistent=False)
            continue
        above, _, name = path.rpartition(".")
        holder = model.get_submodule(above)
        block.hold(path, getattr(holder, name), name not in holder._non_persistent_buffers_set)
    return block
