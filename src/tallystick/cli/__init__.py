"""The `tallystick` command. A command reads its arguments, calls one room and shows the result."""

import os

# Read by torch's OpenMP runtime when it is loaded. Its threads would spin for 300,000 turns, some milliseconds, behind
# each operator; with two processes on the same cores that makes both of them many times slower.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
