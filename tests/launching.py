"""Programs that are started many times, without the seconds that PyTorch and MONAI take to load.

A process loads `scripts/train.py` once, computes nothing, and forks for every start that it is
told of: by itself, or as several ranks with the environment that torchrun gives them.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@dataclass(frozen=True)
class Ended:
    """How the processes of a start ended."""

    statuses: list[int]
    """Of each rank; of one that a signal ended, its number, negative."""

    told: str
    """What they wrote on stderr."""


class Launcher:
    """Starts `scripts/train.py`; to be used in a ``with`` statement."""

    def __init__(self, folder: Path) -> None:
        """Start the process that forks; modules of `folder` can be imported."""
        self._stderr = folder / "launched.txt"
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, "PYTHONPATH": f"{folder}:{SCRIPTS}", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def start(self, *arguments: object, ranks: int = 1) -> Ended:
        """Start the program, and wait until it has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        told = {
            "arguments": list(map(str, arguments)), "ranks": ranks, "stderr": str(self._stderr)
        }  # fmt: skip
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        return Ended(json.loads(answer), self._stderr.read_text())


# --- the process that forks -----------------------------------------------------------------------


def serve() -> None:
    """Fork for each line of stdin; answer with the statuses."""
    # An optimizer loads it when it takes its first step, which takes longer than the training.
    import torch._dynamo  # noqa: F401
    import train

    # No collection goes through all of that in a child, when it ends if not before.
    gc.freeze()
    for line in sys.stdin:
        told = json.loads(line)
        Path(told["stderr"]).write_text("")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = [_fork(train, told, rank, port) for rank in range(told["ranks"])]
        sys.stdout.write(json.dumps(_wait_for(children)) + "\n")
        sys.stdout.flush()


def _fork(train: Any, told: dict[str, Any], rank: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    stderr = os.open(told["stderr"], os.O_WRONLY | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDWR)
    for own, taken in ((0, null), (1, null), (2, stderr)):
        os.dup2(taken, own)
    if told["ranks"] > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(told["ranks"]),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    sys.exit(train.main(told["arguments"]))


def _wait_for(children: Sequence[int]) -> list[int]:
    """Wait for all; when one fails, the others are killed, as torchrun does in the end."""
    statuses: dict[int, int] = {}
    while len(statuses) < len(children):
        child, status = os.wait()
        statuses[child] = os.waitstatus_to_exitcode(status)
        if statuses[child] < 0:
            for other in set(children) - set(statuses):
                os.kill(other, signal.SIGKILL)
    return [statuses[child] for child in children]


if __name__ == "__main__":
    serve()
