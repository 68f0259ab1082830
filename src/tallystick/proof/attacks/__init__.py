"""The known attacks on proofs of training, as code that runs: each makes a real proof, signed and consistent in itself.

`catalogue` lists all of them, `run` asks three verifiers about each: ours, the tolerant one and that of 2021.
"""
