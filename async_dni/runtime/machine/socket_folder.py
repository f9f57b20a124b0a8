"""Where the fork server's socket lies: in multiprocessing's folder for temporary files, whose path must be short for that.

A socket's path has at most 107 bytes. (Sockets without a file, which Linux has too, anybody may connect to: whoever is on
the machine could have the fork server run his code, CVE-2022-42919.)
"""

from __future__ import annotations

import atexit
import os
import tempfile
from contextlib import suppress
from multiprocessing import current_process, forkserver, util
from typing import Any

from ...foundation.error import ConfigError

_LONGEST = 107 - len("/listener-12345678")  # bytes: of a folder that a socket of multiprocessing's may lie in
_LONGEST_AROUND = _LONGEST - len("/pymp-12345678")  # of a folder that multiprocessing's own may lie in
_SHORT = ("/tmp", "/var/tmp", "/dev/shm")


def make_socket_folder() -> None:
    """See to it that multiprocessing has a folder that a socket can lie in; it removes it when this process ends.

    That is one in TMPDIR, unless it is too long. Raises `ConfigError` where there is nowhere to make one.
    """
    process: Any = current_process()
    made = process._config.get("tempdir")
    if made is not None and len(os.fsencode(made)) <= _LONGEST and os.path.isdir(made):
        return
    usual, process._config["tempdir"] = tempfile.tempdir, None
    try:
        for folder in [*_usual(), *_SHORT]:
            tempfile.tempdir = folder
            with suppress(OSError):
                util.get_temp_dir()
                return
    finally:
        tempfile.tempdir = usual
    process._config["tempdir"] = made
    allowed = (
        f"a socket needs a folder that can be written, of at most {_LONGEST_AROUND} bytes; {', '.join(_SHORT)} can't"
    )
    raise ConfigError("TMPDIR", os.environ.get("TMPDIR", ""), f"{allowed}; allowed: such a folder")


def _usual() -> list[str]:
    """The folder for temporary files, where it can be written and is not too long."""
    try:
        folder = tempfile.gettempdir()
    except OSError:
        return []
    return [folder] if len(os.fsencode(folder)) <= _LONGEST_AROUND else []


def remove_socket_at_exit() -> None:
    """In the fork server: at its end, which follows its parent's, remove its socket and the folder.

    A parent that was killed could not; one that was not has done so before.
    """
    server: Any = forkserver
    pid = os.getpid()

    def remove() -> None:
        address = server._forkserver._forkserver_address
        if os.getpid() == pid and isinstance(
            address, str
        ):  # a worker is a copy of the server, with what it is to do at exit
            with suppress(OSError):  # it is gone, as it should be; or there is more in the folder
                os.unlink(address)
                os.rmdir(os.path.dirname(address))

    atexit.register(remove)
