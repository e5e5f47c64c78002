"""Patients -> parts that share none of them: train, val and test, or folds.

`make_split` decides, `Split` keeps what was decided in a small file and finds it again,
`audit_split` looks for what leaks all the same. `grouping` says which series are one patient's,
`assignment` which part a patient gets, `records` what is kept, `leaks` compares the parts.
"""

from __future__ import annotations

from dicomdata.splits.leaks import Audit, Leak, audit_split
from dicomdata.splits.making import make_split
from dicomdata.splits.records import Group, Split, SplitChanges

__all__ = ["Audit", "Group", "Leak", "Split", "SplitChanges", "audit_split", "make_split"]
