"""Whether torch.compile can be used here."""

from __future__ import annotations

import os
import shutil


def no_compiler() -> str | None:
    """Why code for the CPU can't be compiled, if that is so."""
    compilers = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    found = any(shutil.which(compiler) for compiler in compilers)
    return None if found else f"torch.compile needs a C++ compiler; there is no {' or '.join(compilers)}"
