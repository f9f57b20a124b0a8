"""A setting that is refused."""

from __future__ import annotations


class ConfigError(ValueError):
    """A setting that can't be used: `setting` is its field name, `allowed` what would have been right."""

    def __init__(self, setting: str, given: object, allowed: str) -> None:
        super().__init__(setting, given, allowed)
        self.setting, self.given, self.allowed = setting, given, allowed

    def __str__(self) -> str:
        return f"{self.setting}: got {self.shown}; {self.allowed}"

    @property
    def shown(self) -> str:
        """What was given, as it is typed."""
        return ",".join(map(str, self.given)) if isinstance(self.given, tuple | list) else str(self.given)


def reason(error: BaseException) -> str:
    """An error's type and text in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
