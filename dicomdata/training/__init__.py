"""What a training is made of, for a script to put together.

`components` makes transforms, networks and losses of their names; `ranks` is about the processes
that train together; `checkpoints` keeps a training, `loop` goes on with it, `records` tells how it
goes.
"""

from __future__ import annotations

from dicomdata.training.checkpoints import Checkpoint, fingerprint_of_stacks
from dicomdata.training.components import build, build_transforms
from dicomdata.training.loop import Learner, Loop, Scores
from dicomdata.training.ranks import Ranks, join_ranks
from dicomdata.training.records import Records

__all__ = [
    "Checkpoint",
    "Learner",
    "Loop",
    "Ranks",
    "Records",
    "Scores",
    "build",
    "build_transforms",
    "fingerprint_of_stacks",
    "join_ranks",
]
