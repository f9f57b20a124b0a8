"""What the documentation says of files is true."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import RunApart

import async_dni

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md"]
QUESTIONS = ("own_network", "own_data", "where_to_cut", "method_and_synthesizer", "does_it_work", "divergence")


def examples() -> list[Any]:
    """The blocks of code in pages that begin with `# example`, and the name of those that are scripts."""
    found = []
    for page in PAGES:
        blocks = re.findall(r"^```python\n(# example(?:: (\S+))?\n.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        for number, (code, name) in enumerate(blocks):
            found.append(pytest.param(code, name, id=f"{page.stem}-{number}"))
    return found


def anchors(page: Path) -> set[str]:
    """Those that GitHub and MyST give the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def listed() -> set[str]:
    """The files in architecture.md's list, below `async_dni/`; a line may name several of one folder."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    block = text.split("async_dni/\n", 1)[1].split("```", 1)[0]
    found, folder = set(), ""
    for line in block.splitlines():
        names = re.split(r"\s{2,}", line.strip())[0]
        if names.endswith("/") and " " not in names:
            folder = names
            continue
        inside = folder if line.startswith("    ") else ""
        first, *others = [name.strip() for name in names.split(",")]
        below = first.rsplit("/", 1)[0] + "/" if "/" in first else ""
        found |= {inside + first, *(inside + below + other for other in others)}
    return found


def test_architecture_lists_every_file_and_no_other() -> None:
    package = ROOT / "async_dni"
    there = {str(path.relative_to(package)) for path in package.rglob("*.py")}
    assert listed() == {name for name in there if not name.endswith("/__init__.py")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"`([\w./-]+\.(?:py|md|txt|toml|yaml))`|\]\(([\w./-]+)\)", page.read_text())
    places = (ROOT, ROOT / "async_dni", page.parent)
    ours = [path for folder in ("async_dni", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    scripts = re.findall(r"^# example: (\S+)$", page.read_text(), re.MULTILINE)
    there = {path.name for path in ours} | set(scripts)
    missing = [
        name
        for pair in named
        if (name := "".join(pair))
        and not any((place / name).exists() for place in places)
        and not ("/" not in name and name in there)
    ]
    assert not missing


def test_pages_are_followed_from_top_to_bottom() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for page in ("## The floors", "## Follow a setting", "## Follow a batch"):
        assert len(re.findall(rf"^{page}$", text, re.MULTILINE)) == 1
        section = text.split(f"{page}\n", 1)[1].split("\n## ", 1)[0]
        assert len(re.findall(r"`?[\w/]+\.py`?", section)) >= 5, "it names files"


@pytest.mark.parametrize(
    ("page", "head"),
    [
        ("README.md", "| `--method` | a stage updates with"),
        ("docs/architecture.md", "| setting | class, in all stages but the last"),
    ],
)
def test_table_of_methods_is_that_of_the_registry(page: str, head: str) -> None:
    (table,) = re.findall(rf"^{re.escape(head)}.*\n\|[ -|]*\n((?:\|.*\n)*)", (ROOT / page).read_text(), re.MULTILINE)
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(async_dni.METHODS)


def test_table_of_networks_is_that_of_the_registry() -> None:
    text = (ROOT / "docs" / "own_network.md").read_text()
    (table,) = re.findall(r"^\| `--model` \|.*\n\|[ -|]*\n((?:\|.*\n)*)", text, re.MULTILINE)
    rows = [re.match(r"\| `(\w+)` \| (.*?) \|", line) for line in table.splitlines()]
    found = {row[1]: re.findall(r"(\w+)=([\d.]+)", row[2]) for row in rows if row}
    specs = {name: async_dni.MODELS[name].settings for name in async_dni.MODELS}
    assert found == {name: [(key, str(value)) for key, value in settings.items()] for name, settings in specs.items()}


def test_public_names_are_those_of_type_checkers() -> None:
    """`__init__` loads them when they are asked for; type checkers read imports that are never made."""
    tree = ast.parse(Path(async_dni.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    shown = {node.module: tuple(alias.name for alias in node.names) for node in block.body}
    assert shown == async_dni._HOMES
    assert sorted(name for names in shown.values() for name in names) == sorted(async_dni.__all__)
    for name in async_dni.__all__:
        assert getattr(async_dni, name) is not None
    with pytest.raises(AttributeError, match="module 'async_dni' has no attribute 'nothing'"):
        async_dni.nothing  # noqa: B018


def test_every_public_name_is_in_the_reference_once() -> None:
    text = "\n".join(page.read_text() for page in sorted((ROOT / "docs" / "reference").glob("*.rst")))
    assert sorted(re.findall(r"^\.\. auto\w+:: async_dni\.(\w+)$", text, re.MULTILINE)) == sorted(async_dni.__all__)


def test_every_page_is_in_the_index() -> None:
    docs = ROOT / "docs"
    index = (docs / "index.md").read_text()
    pages = {path.stem for path in docs.glob("*.md")} - {"index"}
    assert {name for name in pages if not re.search(rf"^{name}$", index, re.MULTILINE)} == set()
    assert {name for name in pages if f"]({name}.md)" not in index} == set()
    listed = re.findall(r"^   (\w+)$", (docs / "reference" / "index.rst").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in (docs / "reference").glob("*.rst") if path.stem != "index")


def test_every_example_is_linked_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    programs = sorted(path for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".ipynb"))
    assert [path.name for path in programs if f"](../examples/{path.name})" not in index] == []


def test_questions_of_newcomers_are_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [name for name in QUESTIONS if f"](docs/{name}.md)" not in readme] == []


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            wrong.append(target)
    assert wrong == []


@pytest.mark.parametrize(("code", "name"), examples())
def test_examples_run_as_written(
    code: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_apart: RunApart
) -> None:
    """In this process; what has a name as a script, in another directory."""
    monkeypatch.chdir(tmp_path)
    if not name:
        exec(compile(code, "example", "exec"), {"__name__": "example"})
        return
    (tmp_path / name).write_text(code)
    status, output, errors = run_apart(tmp_path / name, tmp_path)
    assert (status, errors) == (0, "")
    (error,) = re.findall(r"^test error ([\d.]+) %$", output, re.MULTILINE)
    assert float(error) < 20  # guessing: 67
    assert (tmp_path / "spirals.pt").exists()
