"""A Python that has imported what takes seconds, and runs each program in a fork of its own.

A program finds what a fresh interpreter would give it, with nothing of this package imported: only
its `import torch` and `import monai` cost nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_SERVE = """
import gc, json, os, sys, types
import imagecodecs, lazy_loader, matplotlib.figure, monai.data, monai.inferers, monai.losses
import monai.networks.nets, monai.transforms, numpy, pydantic, pydicom, rich, scipy.ndimage
import sqlite3, torch, typer, zarr

gc.freeze()  # no collection goes through all of that, in any child
for line in sys.stdin:
    folder, program, *arguments = json.loads(line)
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()

os.chdir(folder)
for number, name in ((0, os.devnull), (1, "stdout"), (2, "stderr")):
    os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
sys.argv[:] = ["-c", *arguments]
served, main = sys.modules["__main__"], types.ModuleType("__main__")
sys.modules["__main__"] = main
exec(compile(program, "<program>", "exec"), vars(main))
"""


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


class PreparedPython:
    """One interpreter for many programs, one after the other, until it is closed."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            # PyTorch's threads spin while they wait for a core: small work takes twice the time.
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(self, program: str, *arguments: object, folder: Path) -> Done:
        """Run a program in `folder`, which keeps its `stdout` and `stderr`."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        request = [str(folder), program, *map(str, arguments)]
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        status = int(self._server.stdout.readline())
        told = ((folder / name).read_text() for name in ("stdout", "stderr"))
        return Done(status, *told)

    def close(self) -> None:
        """End the interpreter; what it ran has ended before."""
        self._server.communicate()
