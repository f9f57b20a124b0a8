"""Named things of one kind: those of the package, those of other packages, and those that a plugin adds.

A package of its own adds one by an entry point in a registry's group, whose name is the thing's:

    [project.entry-points."async_dni.methods"]
    mine = "my_package.my_method:MINE"

and any module by `METHODS.add(MINE)`, before the name is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, Protocol, TypeVar

from .error import ConfigError


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
    """Things by name. `setting` is the setting that names one of them, `group` that of entry points that add to them."""

    def __init__(self, setting: str, group: str, things: Iterable[T]) -> None:
        self.setting, self.group = setting, group
        self._things = {thing.name: thing for thing in things}

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}

    def add(self, thing: T) -> T:
        """Register one more. Raises `ValueError` where another has its name; to add the same again is no error."""
        if self._things.setdefault(thing.name, thing) != thing:
            raise ValueError(f"there is another {self.setting} {thing.name!r}")
        return thing

    def remove(self, name: str) -> None:
        """Forget one that was added."""
        del self._things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._things or name in self._entry_points

    def __iter__(self) -> Iterator[str]:
        return iter({**self._things, **self._entry_points})

    def values(self) -> list[T]:
        """All of them, those of the package first."""
        return [self[name] for name in self]

    def __getitem__(self, name: str) -> T:
        """The one of this name. Raises `ConfigError` where there is none, or its package can't be loaded."""
        if name in self._things:
            return self._things[name]
        if name not in self._entry_points:
            raise ConfigError(self.setting, name, f"allowed: {', '.join(self)}")
        point = self._entry_points[name]
        try:
            thing: T = point.load()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(self.setting, name, f"{point.value} can't be loaded ({reason})") from error
        return self._things.setdefault(name, thing)

    def help(self) -> str:
        """All of them, each with what it is, for a help text."""
        return "; ".join(f"{name} ({self._help_of(name)})" for name in self)

    def _help_of(self, name: str) -> str:
        try:
            return self[name].help
        except ConfigError:
            return "can't be loaded"  # which is told to who names it
