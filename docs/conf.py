"""Settings of Sphinx, for `make docs`: the pages in Markdown as they are, and the reference from the docstrings."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import async_dni  # noqa: E402  (of this checkout)
from async_dni.foundation.registry import Registry  # noqa: E402

project = "async_dni"
author = "the authors of async_dni"
release = version = async_dni.__version__

# The source is the whole repository, so that a link from one page to another is the same here and on GitHub.
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "docs/**"]
exclude_patterns = [".*", "**/.*", "build", "data", "runs", "tests", "async_dni", "*.egg-info"]
root_doc = "docs/index"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"async_dni {release}"
html_copy_source = False

nitpicky = True  # a name of ours that is not found is a warning; to look for those of PyTorch would take a network
nitpick_ignore_regex = [("py:.*", rf"(?!async_dni\.(?:{'|'.join(async_dni.__all__)})\b).*")]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
linkcheck_timeout = 20

_QUOTED = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_SUBJECT = re.compile(r"`\w+`(?:(?:, | and )`\w+`)*: ")


def marked_up(text: str) -> str:
    """Plain English with `names` in it as reStructuredText: a name that is public is a link, all others are code."""

    def name(match: re.Match[str]) -> str:
        public = match[1] in async_dni.__all__
        return f":py:obj:`{match[1]} <async_dni.{match[1]}>`" if public else f"``{match[1]}``"

    return _QUOTED.sub(name, text)


def on_docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """A line that begins with names and a colon is a paragraph; what has fields or entries gets a list of them."""
    if isinstance(thing, Registry):
        lines[:] = [
            f"{thing.kind.__name__}, by name. ``{thing.setting}`` is the setting; other packages add to them by the"
        ]
        lines += [f"entry point ``{thing.group}``.", "", *(f"- ``{key}``: {thing[key].help}" for key in thing)]
        return
    paragraphs = "\n".join("\n" * bool(_SUBJECT.match(line)) + line for line in lines)
    lines[:] = marked_up(paragraphs).splitlines()
    if what == "class" and dataclasses.is_dataclass(thing):
        lines += ["", *_fields(thing)]


def _fields(thing: Any) -> list[str]:
    """The fields of a dataclass, each with the help text of a setting or the comment beside it."""
    comments = {name: text for base in reversed(thing.__mro__) for name, text in _comments(base).items()}
    lines: list[str] = []
    for field in dataclasses.fields(thing):
        lines += [f".. py:attribute:: {field.name}", f"   :type: {field.type}"]
        if isinstance(field.default, str | int | float | tuple | None):
            lines.append(f"   :value: {field.default!r}")
        said = marked_up(field.metadata.get("help") or comments.get(field.name, ""))
        if registry := field.metadata.get("registry"):
            said += f": {registry.help()}"
        lines += ["", f"   {said[:1].upper()}{said[1:]}" + "." * bool(said), ""]
    return lines


def _comments(thing: Any) -> dict[str, str]:
    """What is said of the fields of a class in comments: in a field's lines, else above them."""
    if not dataclasses.is_dataclass(thing):
        return {}
    source = inspect.getsource(thing)
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign):
            first = node.lineno - 1
            while lines[first - 1].strip().startswith("#"):
                first -= 1
            told = [line.partition("# ")[2].strip() for line in lines[first : node.end_lineno] if "# " in line]
            found[ast.unparse(node.target)] = " ".join(told)
    return found


def on_signature(app: Any, what: str, name: str, thing: Any, options: Any, *signature: str) -> tuple[str, None] | None:
    """That of a dataclass is the list of its fields."""
    return ("", None) if what == "class" and dataclasses.is_dataclass(thing) else None


def on_missing(app: Any, env: Any, node: Any, content: Any) -> Any:
    """A public thing that is named by the file that it is made in, as annotations do."""
    name = node.get("reftarget", "").rpartition(".")[2]
    if node.get("refdomain") != "py" or name not in async_dni.__all__:
        return None
    home = env.domains.python_domain
    return home.resolve_xref(env, node["refdoc"], app.builder, "obj", f"async_dni.{name}", node, content)


def setup(app: Any) -> None:
    """Add what is ours to Sphinx."""
    app.connect("autodoc-process-docstring", on_docstring)
    app.connect("autodoc-process-signature", on_signature)
    app.connect("missing-reference", on_missing)
