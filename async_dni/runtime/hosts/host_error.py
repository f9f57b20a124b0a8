"""Another host that is lost."""

from __future__ import annotations


class HostError(RuntimeError):
    """A host is gone, silent, or never came: `host` is its rank, `address` where it was, if that is known."""

    def __init__(self, host: int, address: str, what: str) -> None:
        super().__init__(host, address, what)
        self.host, self.address, self.what = host, address, what

    def and_then(self, rest: str) -> HostError:
        """The same, with something that a person should know."""
        return HostError(self.host, self.address, f"{self.what}; {rest}")

    def __str__(self) -> str:
        where = f" ({self.address})" if self.address else ""
        return f"host {self.host}{where} {self.what}"
