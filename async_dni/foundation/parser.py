"""A command line's parser, which says what is wrong in one sentence; and texts cut and escaped to fit in one."""

from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without the usage, and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, one_line(f"{self.prog}: {message}") + "\n")


def one_line(text: str) -> str:
    """Text with all that is no printable character escaped, line ends too, and cut where it is very long."""
    escaped = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut(text, 2000))
    return "".join(escaped)


def cut(text: str, most: int = 500) -> str:
    """Text without its middle where it is long."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 :]}"
