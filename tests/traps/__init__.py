"""Series that readers are known to get wrong, each with what is true of it.

A trap is data: a title, how to write its files, and the volumes or the refusal that are right. The
tests hold this package to all of them; scripts/compare_readers.py asks other readers the same.
"""
