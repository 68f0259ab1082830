"""Applications of faulty nodes: one executes to something else, one admits nothing from some clients."""

from dataclasses import replace
from typing import Final

from tallystick.consensus.port import CommittedBlock
from tallystick.errors import Refused
from tallystick.lab.consensus.application import Application
from tallystick.lab.consensus.ledger import LedgerApplication
from tallystick.lab.consensus.replicated import Reply


class Liar(Application):
    def execute(self, block: CommittedBlock) -> list[Reply]:
        return _lies(super().execute(block))

    def snapshot(self) -> bytes:
        return _spoiled(super().snapshot())


class LedgerLiar(LedgerApplication):
    def execute(self, block: CommittedBlock) -> list[Reply]:
        return _lies(super().execute(block))

    def snapshot(self) -> bytes:
        return _spoiled(super().snapshot())


class Censor(Application):
    def admit(self, transaction: bytes) -> None:
        super().admit(transaction)
        _censor(transaction)


class LedgerCensor(LedgerApplication):
    def admit(self, transaction: bytes) -> None:
        super().admit(transaction)
        _censor(transaction)


APPLICATIONS: Final[dict[str, type[Application]]] = {"liar": Liar, "censor": Censor}
LEDGERS: Final[dict[str, type[LedgerApplication]]] = {"liar": LedgerLiar, "censor": LedgerCensor}
"""By attack."""


def _lies(replies: list[Reply]) -> list[Reply]:
    return [replace(reply, result=reply.result + " more") for reply in replies]


def _spoiled(snapshot: bytes) -> bytes:
    return snapshot[:-1] + b"\0"


def _censor(transaction: bytes) -> None:
    if transaction[0] & 1:
        raise Refused("censored", "not that one")
