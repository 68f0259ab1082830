"""The rules of the network as one pure function over integers: no clock, no float, no I/O, no torch."""
