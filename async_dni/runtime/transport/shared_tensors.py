"""A data set's tensors in memory that another process sees too, where PyTorch puts them: in files of `/dev/shm`.

There is one copy of a data set then, however large: what other processes hold of it is the same memory. (In files without
a name, as `shared_memory` has them, there would be two: PyTorch moves a tensor that others refer to into `/dev/shm` only.)
PyTorch allocates these files whole, so where there is no room it raises, and nothing gets SIGBUS.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, UntypedStorage

from ...foundation.error import ConfigError

FOLDER = "/dev/shm"  # glibc's shm_open knows no other
_PAGE = 4096


def storages_of(tensors: Iterable[Tensor]) -> list[UntypedStorage]:
    """What holds these tensors on the CPU, each once: tensors may be views of one storage."""
    storages = (tensor.untyped_storage() for tensor in tensors if tensor.layout is torch.strided)
    found = {storage._cdata: storage for storage in storages if storage.device.type == "cpu" and storage.nbytes()}
    return list(found.values())


def check_room(storages: Sequence[UntypedStorage], setting: str) -> None:
    """Raise `ConfigError` where these can't be shared."""
    if (needed := _needed(storages)) > (free := _free()):
        raise _refusal(setting, needed, free)


def share(storages: Sequence[UntypedStorage], setting: str) -> None:
    """Move these into memory that processes share. Raises `ConfigError` where others have filled it meanwhile."""
    needed = _needed(storages)
    try:
        for storage in storages:
            storage.share_memory_()
    except RuntimeError as error:
        if left := re.search(r"</(torch_\w+)>", str(error)):  # PyTorch leaves the file that it found no room for
            Path(FOLDER, left[1]).unlink(missing_ok=True)
        raise _refusal(setting, needed, _free()) from error


def _needed(storages: Sequence[UntypedStorage]) -> int:
    return sum(-(-storage.nbytes() // _PAGE) * _PAGE for storage in storages if not storage.is_shared())


def _refusal(setting: str, needed: int, free: int) -> ConfigError:
    room = f"PyTorch shares them with stage 0 through {FOLDER}, where {free:,} are free"
    allowed = "allowed: what fits; a container gets a larger one by --shm-size"
    return ConfigError(setting, f"tensors of {needed:,} bytes", f"{room}; {allowed}")


def _free() -> int:
    try:
        folder = os.statvfs(FOLDER)
    except OSError:
        return 0
    return folder.f_bavail * folder.f_frsize
