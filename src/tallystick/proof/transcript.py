"""The transcript: 32 bytes for each step, chained so that none can be changed, moved or left out unnoticed.

    link_0     = digest("tallystick/transcript", bytes of the commitment)
    link_(t+1) = digest("tallystick/step", link_t, t, batch, loss, root, total)

`root` names the state after step t and `total` the sum of its contributions; both are empty where the commitment's
`roots_every` passes a step over, because hashing a state can take as long as the step itself. The file is the links
from link_1 on, one after the other.

`batch` = digest("tallystick/batch", root of the training records, indices). The root binds every record with its
label and place, the indices say which of them the step uses, and a verifier computes both without touching a record.
"""

from dataclasses import dataclass
from typing import Final

from torch import Tensor

from tallystick.canon.hashing import DIGEST_BYTES, digest
from tallystick.program.tensors import tensor_bytes

LINK_BYTES: Final = DIGEST_BYTES


@dataclass(frozen=True)
class Entry:
    """What one step did."""

    step: int
    batch: str
    loss: int
    """Sum of the micro-batches' losses, in units of 2**-20."""
    root: str = ""
    total: str = ""


def start(commitment: bytes) -> bytes:
    """link_0: what every transcript under this commitment begins with."""
    return digest("tallystick/transcript", commitment)


def extend(link: bytes, entry: Entry) -> bytes:
    """link_(t+1), from link_t and what step t did."""
    numbers = (entry.step.to_bytes(8, "big"), entry.loss.to_bytes(8, "big", signed=True))
    names = (bytes.fromhex(entry.batch), bytes.fromhex(entry.root), bytes.fromhex(entry.total))
    return digest("tallystick/step", link, numbers[0], names[0], numbers[1], names[1], names[2])


def batch_root(data_root: str, indices: Tensor) -> str:
    """Names the records that a step uses, in order of its micro-batches (int64)."""
    return digest("tallystick/batch", bytes.fromhex(data_root), bytes(tensor_bytes(indices))).hex()
