"""The demonstration: a whole network of separate processes on this machine, with cheats and crashes, on real data."""
