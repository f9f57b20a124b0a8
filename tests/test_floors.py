"""The house: which file may import which, how many there are on a floor, and how long anything is."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from async_dni import DATASETS, METHODS, METRICS, MODELS, SYNTHESIZERS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "async_dni"

# bottom to top: a file imports from its own floor and from those before it
FLOORS = (
    "foundation",
    "learning",
    "settings",
    "config",
    "data",
    "network",
    "experiment",
    "record",
    "view",
    "runtime.machine",
    "runtime.transport",
    "runtime",
    "fit",
    "look",
    "",  # the faces
)
MOST_FACES, MOST_FILES, MOST_OF_A_FUNCTION, MOST_OF_A_CLASS = 8, 16, 50, 200
FILES = [*sorted(PACKAGE.rglob("*.py")), ROOT / "launch.py"]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, modules: Mapping[str, Path], flat: bool = False) -> Iterator[str]:
    """The modules among these that a file imports, wherever in it; `flat`: they are scripts in one folder."""
    package = module_of(path).split(".") if path.name == "__init__.py" else module_of(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            start = ".".join(part for part in (base, node.module) if part)
            inside = [f"{start}.{alias.name}" for alias in node.names]
            names = [name if name in modules else start for name in inside]
        else:
            continue
        for name in names:
            if name in modules and modules[name] != path:
                yield name


def graph(files: list[Path], flat: bool = False) -> dict[str, set[str]]:
    modules = {path.stem if flat else module_of(path): path for path in files}
    return {name: set(imports(path, modules)) for name, path in modules.items()}


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """A circle, if there is one."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name not in done:
            for other in sorted(edges[name]):
                if found := visit(other, [*way, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in sorted(edges) if (found := visit(name, []))), [])


def floor_of(module: str) -> str:
    inside = module.removeprefix("async_dni").removeprefix(".")
    return max((floor for floor in FLOORS if f"{inside}.".startswith(f"{floor}." if floor else "")), key=len)


def test_imports_point_down() -> None:
    climbs = [
        f"{name} imports {other}"
        for name, others in graph(FILES).items()
        for other in others
        if FLOORS.index(floor_of(other)) > FLOORS.index(floor_of(name))
    ]
    assert not climbs


@pytest.mark.parametrize("folder", ["async_dni", "benchmarks"])
def test_no_circle_of_imports(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert not circle(graph(files, flat=folder == "benchmarks"))


def test_a_circle_would_be_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert graph(FILES)["async_dni.runtime.worker"] >= {"async_dni.learning.stage", "async_dni.runtime.gradients"}
    assert graph(sorted((ROOT / "benchmarks").glob("*.py")), flat=True)["harness"] >= {"case", "plotting"}
    assert floor_of("async_dni.runtime.transport.doorbell") == "runtime.transport"


def test_no_floor_is_crowded() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_FACES
    for package in {path.parent for path in PACKAGE.rglob("*.py")}:
        assert len(list(package.glob("*.py"))) <= MOST_FILES, package


def test_functions_and_classes_fit_on_a_page() -> None:
    long = [
        f"{module_of(path)}.{node.name}: {lines} lines"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1)
        > (MOST_OF_A_CLASS if isinstance(node, ast.ClassDef) else MOST_OF_A_FUNCTION)
    ]
    assert not long


REGISTERED = {
    "learning.methods": METHODS,
    "learning.metrics": METRICS,
    "learning.synthesizers": SYNTHESIZERS,
    "network.models": MODELS,
    "data.sets": DATASETS,
}
# what is there when nobody names anything; and blocks are timed as locked stages
DEFAULTS = {("settings.stages", "cdni"), ("experiment", "fcn"), ("experiment", "mnist")}
DEFAULTS |= {("view.report.results", "text")}  # Vega-Lite's word
IMPORTED = {("network.cost", "learning.methods.backprop")}


@pytest.mark.parametrize("folder", REGISTERED)
def test_nothing_registered_is_named_outside_its_folder(folder: str) -> None:
    """Neither by its name nor by its file, but where a user names nothing, and for what is public."""
    names, own = set(REGISTERED[folder]), PACKAGE / folder.replace(".", "/")
    files = {f"async_dni.{folder}.{path.stem}" for path in own.glob("*.py") if path.stem.replace("_", "-") in names}
    assert len(files) == len(names), "each has a file of its own"
    modules = {module_of(path): path for path in FILES}
    for path in set(FILES) - set(own.glob("*.py")) - {PACKAGE / "__init__.py"}:
        module = module_of(path).removeprefix("async_dni.")
        constants = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        named = {(module, str(value)) for value in constants if isinstance(value, str) and value in names}
        assert named <= DEFAULTS
        imported = {(module, name.removeprefix("async_dni.")) for name in imports(path, modules) if name in files}
        assert imported <= IMPORTED
