"""A dispute over the network: the referee's process keeps the record of the game, and both seats dial in.

`wire` is what goes over a channel, `host` the referee's end, `player` a seat's.
"""
