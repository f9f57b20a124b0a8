"""Runs scripts, one after the other, as if each were alone; torch is loaded, and the server of workers started, once.

For each line of its input, `[script, folder]`, it answers with a line, `[exit status, output, errors]`: of the script, run in
that folder, and of its workers.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
import traceback
from pathlib import Path

import torch

from async_dni.learning.random_state import RandomState
from async_dni.runtime.fork_server import worker_context


def run(script: str) -> int:
    sys.argv, sys.path[0] = [script], str(Path(script).parent)
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as exit:
        return int(exit.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    answers, files = os.fdopen(os.dup(1), "w"), [tempfile.TemporaryFile() for _ in range(2)]
    said = [file.fileno() for file in files]
    for number, file in enumerate(said, 1):
        os.dup2(file, number)
    states, threads = RandomState.capture(), torch.get_num_threads()
    worker_context()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        script, folder = json.loads(line)
        states.restore()
        torch.set_num_threads(threads)
        before = [os.fstat(file).st_size for file in said]
        os.chdir(folder)
        status = run(script)
        sys.stdout.flush()
        sys.stderr.flush()
        texts = [os.pread(file, 10**6, start).decode() for file, start in zip(said, before, strict=True)]
        print(json.dumps([status, *texts]), file=answers, flush=True)


if __name__ == "__main__":
    main()
