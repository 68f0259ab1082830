"""An embedded PBFT as a sans-I/O state machine: `Replica.step(event) -> effects`. Start reading at `io` and `normal`.

The normal case with durable votes and catch-up. Not here yet: view change, checkpoints, membership (docs/consensus.md).
"""

from tallystick.consensus.pbft.certificate import verify_certificate
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.replica import Replica

__all__ = ["Group", "Replica", "verify_certificate"]
