"""The rules of the network as one pure function over integers: no clock, no float, no I/O, no torch.

Read `docs/ledger.md` first, then, in this order: `state` (what there is), `execute` (what happens to it), `rounds`
(the mechanics), `contributions`, `audits`, `settlement` and `deadlines` (what moves them), `faults` (what it costs),
`tasks`, `accounts` and `rewards`, and `assignment` (the arithmetic of chance); then `membership`, `rotation` and
`evidence` (who the validators are), and `recount` (what that does to rounds in progress).
"""
