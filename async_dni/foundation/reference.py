"""An object that is named as it is typed: `path/to/file.py:name`, or `package.module:name`.

A file's folder is put at the end of `sys.path`, which workers get, too; so the file may import what lies beside it, and is
the module of its own name where no other module has that. Where one has (`random.py`), it gets another name, under which no
other process finds it: what is of it is pickled by value then.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
import zlib
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

from .error import ConfigError, reason
from .option import Check
from .registry import Registry

FORMS = "path/to/file.py:name or package.module:name"


class _Loader(SourceFileLoader):
    """Leaves no compiled file beside what it loads."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        pass


def is_reference(value: object) -> bool:
    """Whether a value names an object by a file or a module, and not by a registered name, which has no colon."""
    return isinstance(value, str) and ":" in value


def reference(value: object) -> str | None:
    """Check that a value is formed like a reference."""
    where, _, name = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    fits = bool(where) and "\0" not in where and all(part.isidentifier() for part in name.split("."))
    return None if fits else f"allowed: {FORMS}"


def resolved(value: str | None) -> str | None:
    """The same, found from any directory where it names a file; other names are left as they are."""
    if value is None or not is_reference(value):
        return value
    where, _, name = value.rpartition(":")
    return f"{Path(where).resolve()}:{name}" if _is_file(where) else value


def _is_file(where: str) -> bool:
    """Whether a reference is by a file, and not by a module."""
    return where.endswith(".py") or "/" in where


def registered_or_reference(registry: Registry[Any]) -> Check:
    """Check that a value is the name of something in a registry, or formed like a reference."""

    def check(value: object) -> str | None:
        if value in registry or (is_reference(value) and reference(value) is None):
            return None
        return f"allowed: {', '.join(registry)}, or {FORMS}"  # plugins may have added some

    return check


def load(setting: str, value: str) -> Callable[..., Any]:
    """The function or class that a reference names. Raises `ConfigError` where there is none."""
    if allowed := reference(value):
        raise ConfigError(setting, value, allowed)
    where, _, name = value.rpartition(":")
    try:
        module = _of_file(Path(where)) if _is_file(where) else _of_path(where)
    except FileNotFoundError as error:
        if error.filename is None or Path(error.filename) != Path(where):
            raise ConfigError(setting, value, f"{where} can't be imported ({reason(error)})") from error
        raise ConfigError(setting, value, f"there is no file {where}; allowed: {FORMS}") from None
    except (Exception, SystemExit) as error:
        raise ConfigError(setting, value, f"{where} can't be imported ({reason(error)})") from error
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(setting, value, f"{where} has no {name}; allowed: {', '.join(_own(module)) or 'none'}")
        found = getattr(found, part)
    if not callable(found):
        allowed = f"{name} is {type(found).__name__}; allowed: a function or a class of it, such as"
        raise ConfigError(setting, value, f"{allowed} {', '.join(_own(module)) or 'make'}")
    return found


def _own(module: ModuleType) -> list[str]:
    """The functions and classes that a module defines."""
    own = {name: value for name, value in vars(module).items() if inspect.isroutine(value) or inspect.isclass(value)}
    return [name for name, value in own.items() if getattr(value, "__module__", None) == module.__name__]


def _of_path(name: str) -> ModuleType:
    """The module of a dotted name, also of the working directory."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # workers get the path, too
    return importlib.import_module(name)


def _of_file(path: Path) -> ModuleType:
    """The module that a file is: imported once, however it is named."""
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    path = path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    name, is_found = path.stem, _is_found(path)
    if not is_found:
        name = f"{path.stem}_{zlib.crc32(os.fsencode(path)):08x}"
    if name in sys.modules:
        return sys.modules[name]
    loader = _Loader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    if not is_found:
        cloudpickle.register_pickle_by_value(module)
    return module


def _is_found(path: Path) -> bool:
    """Whether it is this file that an import of its name finds."""
    importlib.invalidate_caches()  # it may just have been written
    try:
        spec = importlib.util.find_spec(path.stem)
    except (ImportError, ValueError):  # `__main__` has none
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == path
