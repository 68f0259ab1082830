"""For whom there is something to audit."""

from ledger_network import Network, key
from tallystick.ledger.transactions import RemoveValidator
from tallystick.network.auditor import tasks_to_audit


def test_only_validators_audit_and_only_while_they_are() -> None:
    net = Network([f"v{i}" for i in range(5)])
    net.open_task()
    assert tasks_to_audit(net.state, key("v4").identity) == [net.the_task()]
    assert tasks_to_audit(net.state, key("ann").identity) == []
    net.endorse(RemoveValidator(key("v4").identity), "v0", "v1", "v2", "v3")
    assert tasks_to_audit(net.state, key("v4").identity) == []
    assert tasks_to_audit(net.state, key("v0").identity) == [net.the_task()]
