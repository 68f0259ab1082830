"""Validators on loopback ports, for tests over real sockets."""

import socket
from collections.abc import Sequence
from contextlib import ExitStack

from tallystick.canon.identity import Key
from tallystick.network.peers import Validator
from tallystick.network.tls import make_certificate


def free_ports(count: int) -> list[int]:
    """Distinct ports that nobody listens on at the moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def validators_at(keys: Sequence[Key], ports: Sequence[int]) -> list[Validator]:
    return [
        Validator(key.identity, f"127.0.0.1:{port}", make_certificate(key))
        for key, port in zip(keys, ports, strict=True)
    ]
