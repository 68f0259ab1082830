"""Those behind the validators, where the real ledger says who agrees: they endorse what the operator wishes, give their
office to new keys, and take evidence against one another to the ledger.
"""

from typing import TYPE_CHECKING

from tallystick.lab.consensus.clients import Client
from tallystick.lab.consensus.ledger import BOND, Order
from tallystick.ledger.transactions import Accuse, AddValidator, AnyBody, RemoveValidator, RotateKey, prove_rotation

if TYPE_CHECKING:
    from tallystick.lab.consensus.cluster import Cluster
    from tallystick.lab.consensus.node import Node


class Owners:
    """One client with each validator's key; and one beside it that brings evidence, so that neither waits for the
    other's numbers."""

    def __init__(self, cluster: "Cluster") -> None:
        self.cluster = cluster
        self.owners = [Client(cluster, f"validator {i}", []) for i in range(cluster.plan.nodes)]
        self.witnesses = [Client(cluster, witness(i), []) for i in range(cluster.plan.nodes)]
        self._brought: set[tuple[int, str]] = set()

    @property
    def clients(self) -> list[Client]:
        return [*self.owners, *self.witnesses]

    def change(self, leave: int | None, join: int | None) -> None:
        """Validators by number. A key is rotated by its owner; all else needs a quorum, and every honest one's voice
        is given."""
        chain = self.cluster.genesis.chain
        if leave is not None and join is not None:
            old, new = self.owners[leave].key, self.owners[join].key
            self._tell(self.owners[leave], RotateKey(new.identity, "none", prove_rotation(new, chain, old.identity)))
            return
        if join is not None:
            body: AnyBody = AddValidator(self.owners[join].key.identity, "127.0.0.1:1", "", "none", BOND)
        else:
            assert leave is not None
            body = RemoveValidator(self.owners[leave].key.identity)
        for node in self.cluster.nodes[: self.cluster.plan.nodes]:
            if node.honest and node.key.identity in self.cluster.validators:
                self._tell(self.owners[node.index], body)

    def bring(self, node: "Node", culprit: str, first: bytes, second: bytes) -> None:
        if (node.index, culprit) not in self._brought:
            self._brought.add((node.index, culprit))
            self._tell(self.witnesses[node.index], Accuse(first, second))

    def _tell(self, client: Client, body: AnyBody) -> None:
        client.wishes.append(Order(client.next_number, body))
        client.next()


def witness(index: int) -> str:
    return f"witness {index}"
