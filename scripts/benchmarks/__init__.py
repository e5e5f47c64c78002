"""What `scripts/bench.py` measures: one module a kind of work, and what they share.

`setup` says how large everything is and writes the archives, `measuring` times and weighs, `tables`
holds the numbers and lays them out, `peers` are the other readers. Each other module has a function
`measure(setup)` that gives its tables; `works` lists them.
"""
