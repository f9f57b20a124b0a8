"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write beside `path`, flush to the disk, then rename: a reader sees the old file or the new one, whole.

    Raises `OSError` where that can't be done, also from within `torch.save`.
    """
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o666 & ~_umask())
            os.replace(file.name, path)
        except BaseException as error:
            with suppress(OSError):  # its directory may have gone
                os.unlink(file.name)
            # torch.save's archive trips over the bytes that were not written, and says nothing of the disk
            if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def remove_unfinished(path: Path) -> None:
    """Remove what of `path`, a name or a pattern, was not written to its end."""
    for left in path.parent.glob(f".{path.name}.*"):
        with suppress(OSError):
            left.unlink()


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
