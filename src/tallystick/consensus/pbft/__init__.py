"""An embedded PBFT as a sans-I/O state machine: `Replica.step(event) -> effects`. Start reading at `io` and `normal`,
then `checkpoints`, `views`, `catchup` and `transfer`; docs/consensus.md explains the whole before the code does.
"""

from tallystick.consensus.pbft.certificate import group_of_block, verify_certificate, verify_history
from tallystick.consensus.pbft.group import Group, Parameters
from tallystick.consensus.pbft.replica import Replica

__all__ = ["Group", "Parameters", "Replica", "group_of_block", "verify_certificate", "verify_history"]
