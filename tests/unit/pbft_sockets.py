"""Validators on loopback ports, for tests over real sockets."""

from collections.abc import Sequence

from tallystick.canon.identity import Key
from tallystick.network.peers import Validator
from tallystick.network.tls import make_certificate


def validators_at(keys: Sequence[Key], ports: Sequence[int]) -> list[Validator]:
    return [
        Validator(key.identity, f"127.0.0.1:{port}", make_certificate(key))
        for key, port in zip(keys, ports, strict=True)
    ]
