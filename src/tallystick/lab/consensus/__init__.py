"""A whole cluster in one thread and in virtual time: real replicas, and everything around them simulated and hostile.

One seed decides everything that happens. Start reading at `plan` (what a seed can bring), then `node` (a shell in
miniature around `Replica`), `invariants` (what must hold) and `run` (chaos, then healing). docs/simulation.md tells how
it is used and what it has found.
"""
