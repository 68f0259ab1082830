"""The tolerant mode: records of training that did not run in exact arithmetic, compared within a tolerance.

A plain PyTorch, Lightning or Hugging Face run writes a record (`recorder`): a manifest that is committed to before the
first step, a chained transcript of the batches, and checkpoints in safetensors. A verifier replays segments of it with
the verifier's *own* copy of the training code (`replay`), because floating-point results differ between machines and
there is no program to re-execute. Two states are never equal then, only near each other, so the best that `verify` can
say is `consistent_within_tolerance`; `attacks` lists what that leaves open. `baseline2021` is the verifier of the 2021
paper, kept as it was, to measure against.
"""

from tallystick.proof.tolerant.recorder import Recorder as Recorder
from tallystick.proof.tolerant.run import Run as Run
