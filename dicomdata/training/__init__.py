"""What a training is made of, for a script to put together.

`components` makes transforms, networks and losses of their names, and `targets` sees whether they
go together; `learner` takes a step, `loop` those of an epoch. `ranks` is about the processes that
train together, `checkpoints` keeps a training, `stopping` ends one where it can go on, and
`records` tells how it goes.
"""

from __future__ import annotations

from dicomdata.training.checkpoints import Checkpoint, fingerprint_of_stacks, remove_partials
from dicomdata.training.claims import claim_folder
from dicomdata.training.components import build, build_transforms, compare_transforms
from dicomdata.training.learner import Images, Learner, choose_precision
from dicomdata.training.loop import Loop
from dicomdata.training.ranks import Ranks, join_ranks
from dicomdata.training.records import Records
from dicomdata.training.samples import NamedSamples, is_named, one_line
from dicomdata.training.scores import Scores
from dicomdata.training.stopping import (
    StoppedError,
    StopRequest,
    ended_workers,
    heed_signals,
    leave_signals_to_parent,
)
from dicomdata.training.targets import Targets

__all__ = [
    "Checkpoint",
    "Images",
    "Learner",
    "Loop",
    "NamedSamples",
    "Ranks",
    "Records",
    "Scores",
    "StopRequest",
    "StoppedError",
    "Targets",
    "build",
    "build_transforms",
    "choose_precision",
    "claim_folder",
    "compare_transforms",
    "ended_workers",
    "fingerprint_of_stacks",
    "heed_signals",
    "is_named",
    "join_ranks",
    "leave_signals_to_parent",
    "one_line",
    "remove_partials",
]
