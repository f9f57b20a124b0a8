"""Named things of one kind: those of the package, those of other packages, and those that a plugin adds.

A package of its own adds one by an entry point in a registry's group, whose name is the thing's:

    [project.entry-points."async_dni.methods"]
    mine = "my_package.my_method:MINE"

and any module by `METHODS.add(MINE)`, before the name is used. A name that is taken here is not looked for elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, Protocol, TypeVar

from .error import ConfigError, reason


class Named(Protocol):
    """What a registry holds."""

    @property
    def name(self) -> str:
        """What it is called by, in a setting."""

    @property
    def help(self) -> str:
        """A few words on what it is."""


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """Things of a kind, by name. `setting` is the setting that names one, `group` that of entry points that add to them."""

    def __init__(self, kind: type[T], setting: str, group: str, things: Iterable[T]) -> None:
        self.kind, self.setting, self.group = kind, setting, group
        self._things = {thing.name: thing for thing in things}

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}

    def add(self, thing: T) -> T:
        """Register one more. Raises `TypeError` for another kind of thing, and `ValueError` where another has its name."""
        if not isinstance(thing, self.kind):
            raise TypeError(f"a {self.setting} is a {self.kind.__name__}, not {type(thing).__name__}")
        if self._things.setdefault(thing.name, thing) != thing:
            raise ValueError(f"there is another {self.setting} {thing.name!r}")
        return thing

    def remove(self, name: str) -> None:
        """Forget one that was added."""
        del self._things[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._things or name in self._entry_points)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._things, **self._entry_points})

    def __getitem__(self, name: str) -> T:
        """The one of this name. Raises `ConfigError` where there is none, or its package can't be loaded."""
        if name not in self:
            raise ConfigError(self.setting, name, f"allowed: {', '.join(self)}")
        if name in self._things:
            return self._things[name]
        point = self._entry_points[name]
        try:
            thing = point.load()
            if thing.name != name:
                raise ValueError(f"it is called {thing.name!r}")
            return self.add(thing)
        except (Exception, SystemExit) as error:
            raise ConfigError(self.setting, name, f"{point.value} can't be loaded ({reason(error)})") from error

    def help(self) -> str:
        """All of them, each with what it is, for a help text; another package's, which is not loaded for that, with its place."""
        others = {name: point.value for name, point in self._entry_points.items()}
        texts = {**others, **{thing.name: thing.help for thing in self._things.values()}}
        return "; ".join(f"{name} ({texts[name]})" for name in self)
