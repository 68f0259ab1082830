"""An embedded PBFT as a sans-I/O state machine: `Replica.step(event) -> effects`. Start reading at `io` and `normal`,
then `checkpoints`, `views`, `catchup`, `transfer` and `serving`; docs/consensus.md explains the whole before the code.
"""

from tallystick.consensus.pbft.certificate import verify_certificate
from tallystick.consensus.pbft.group import Group, Parameters
from tallystick.consensus.pbft.replica import Replica
from tallystick.consensus.pbft.trust import ChainOfTrust

__all__ = ["ChainOfTrust", "Group", "Parameters", "Replica", "verify_certificate"]
