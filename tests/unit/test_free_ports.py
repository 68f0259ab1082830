"""The ports that a network on one machine takes."""

import secrets
import socket
from collections.abc import Iterator

import pytest

from tallystick.network.local import FIRST_PORT, LAST_PORT, LocalNetworkError, free_ports


def test_they_are_consecutive_free_and_not_for_outgoing_connections() -> None:
    ports = free_ports(8)
    assert ports == list(range(ports[0], ports[0] + 8))
    assert ports[0] >= FIRST_PORT and ports[-1] < LAST_PORT <= 32_768
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_port_that_somebody_holds_is_not_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = free_ports(3), free_ports(3)
    places: Iterator[int] = iter([first[0] - FIRST_PORT, second[0] - FIRST_PORT])
    monkeypatch.setattr(secrets, "randbelow", lambda bound: next(places))
    with socket.create_server(("127.0.0.1", first[2])):
        assert free_ports(3) == second


def test_if_there_are_none_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_ports(1)[0]
    monkeypatch.setattr(secrets, "randbelow", lambda bound: port - FIRST_PORT)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(LocalNetworkError, match="free some"):
        free_ports(1)
