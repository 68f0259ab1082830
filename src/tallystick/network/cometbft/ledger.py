"""The ledger as CometBFT's application: a block is executed when it is decided, and kept when it is committed."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tallystick.canon.hashing import is_name
from tallystick.consensus.cometbft.port import Notice, Offense, Outcome, Result
from tallystick.consensus.cometbft.snapshots import app_hash
from tallystick.consensus.port import CommittedBlock
from tallystick.errors import Refused
from tallystick.ledger.events import Event
from tallystick.ledger.execute import Executed
from tallystick.ledger.genesis import Genesis
from tallystick.ledger.state import Account, State, dump_state
from tallystick.network import views
from tallystick.network.node import Node


class CometLedger:
    """A node, as `consensus/cometbft/port.py` asks for it."""

    def __init__(self, node: Node, genesis: Genesis) -> None:
        self._node, self.genesis_ms = node, genesis.time_ms
        self.digest = app_hash(node.snapshot())
        self._pending: tuple[Executed, bytes] | None = None
        """What the last finalized block gave, with the digest of its state."""

    @property
    def chain(self) -> str:
        return self._node.state.chain

    @property
    def height(self) -> int:
        return self._node.height

    @property
    def time_ms(self) -> int:
        return self._node.state.time_ms

    def validators(self) -> tuple[str, ...]:
        return self._node.validators()

    def answerable(self) -> tuple[str, ...]:
        state = self._node.state
        retired = (entry.identity for entry in state.retired)
        return (*self.validators(), *retired, *(rotation.old for rotation in state.rotations))

    def check(self, transaction: bytes) -> None:
        self._node.check(transaction)

    def admit(self, transaction: bytes) -> None:
        self._node.admit(transaction)

    def finalize(self, block: CommittedBlock, offenses: Sequence[Offense]) -> Outcome:
        executed = self._node.preview(block, offenses)
        digest = app_hash(dump_state(executed.state))
        self._pending = executed, digest
        return Outcome(
            digest,
            tuple(Result(result.code, result.reason) for result in executed.results),
            tuple(map(_notice, executed.events)),
            tuple(validator.identity for validator in executed.state.validators),
        )

    def commit(self) -> None:
        assert self._pending is not None, "the adapter commits only what was finalized"
        (executed, self.digest), self._pending = self._pending, None
        self._node.keep(executed)

    def snapshot(self) -> bytes:
        self._node.journal.start_from(self._node.state)
        return self._node.snapshot()

    def restore(self, data: bytes) -> None:
        self._node.restore(data)
        self.digest, self._pending = app_hash(data), None

    def query(self, path: str, data: bytes) -> bytes:
        return msgspec.json.encode(_answer(self._node.state, path))


def _answer(state: State, path: str) -> Any:
    """What `path` names in the state; the paths are those of the HTTP face (`network/api.py`), which also answers what
    takes long to put together: here blocks would wait for it."""
    match path.strip("/").split("/"):
        case ["accounts", identity] if is_name(identity):
            return views.account_view(identity, state.accounts.get(identity, Account()))
        case ["tasks", name] if name in state.tasks:
            return views.task_view(state.tasks[name])
        case ["anchors", name] if name in state.anchors:
            found = state.anchors[name]
            return views.AnchorView(name, found.identity, found.height, found.time_ms, found.number)
    raise Refused("not_found", f"query: nothing at {path[:120]!r}")


def _notice(event: Event) -> Notice:
    fields = msgspec.to_builtins(event)
    kind = fields.pop("type")
    return Notice(kind, tuple((key, _text(value)) for key, value in fields.items()))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
