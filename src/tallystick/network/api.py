"""The HTTP face of a validator. Workers and clients dial in; nothing here is trusted until the ledger has checked it.

    GET  /v1/status                                  who and where this validator is
    POST /v1/transactions?wait_ms=                   a sealed transaction, as bytes; waits for its execution
    POST /v1/transactions/bulk?wait_ms=              many of them, as a MessagePack list of bytes; an answer for each
    GET  /v1/transactions/{hash}?wait_ms=            what became of it
    GET  /v1/accounts/{identity}                     balance, stake, nonce
    GET  /v1/money                                   all of it in sums, to check conservation
    GET  /v1/validators                              who they are, and which changes wait for endorsements
    GET  /v1/tasks?after=, /v1/tasks/{task}          tasks, in the order of their ids; some above `after`
    GET  /v1/tasks/{task}/history?start=             finished steps
    GET  /v1/assignments/{identity}?mark=&wait_ms=   what a worker has to do; waits until `mark` is out of date
    GET  /v1/anchors/{digest}                        who anchored a digest first
    GET  /v1/events?after=&wait_ms=                  what happened, in order
    GET  /v1/blocks/{height}                         a block with the votes that committed it
    GET  /v1/blocks?start=                           some of them in a row, from there on or from the oldest kept
    GET  /v1/history?start=                          checkpoints that lead from genesis to the validators of now
    GET  /metrics                                    for Prometheus, as text

Replies are JSON (`views`). A failure has a code and a reason. A transaction that was executed already is answered with
what became of it, so it can be sent again when a reply was lost. Blocks and history convince a client that trusts
nobody (`committed`); the rest is one validator's word.

Consensus runs on the same event loop and must not wait for strangers, however many ask at once. So whatever costs much
is done in slices, and between two slices everything else has its turn (`in_turn`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from heapq import nsmallest
from itertools import islice
from typing import Annotated, Any, Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tallystick.canon.encoding import from_bytes
from tallystick.canon.hashing import blob_name, is_name
from tallystick.consensus.pbft.limits import MAX_ANSWER_BYTES
from tallystick.consensus.port import Engine
from tallystick.errors import Refused
from tallystick.ledger.state import Account, State, Task
from tallystick.ledger.transactions import MAX_TRANSACTION_BYTES
from tallystick.network import views
from tallystick.network.bounded_http import Bodies
from tallystick.network.metrics import METRICS_TYPE
from tallystick.network.node import Node
from tallystick.network.store import Store
from tallystick.network.tables import DamagedError

MAX_WAIT_MS: Final = 30_000
MAX_BULK_BYTES: Final = 8 * 2**20
MAX_BULK: Final = 1000
"""Transactions in one request."""
CHECKS: Final = 32
"""Transactions that are verified before everything else in this process, consensus first of all, gets a turn."""
WALKED: Final = 4096
"""The same for accounts or tasks that are looked through."""
NOT_FOUND: Final = {"no_such_anchor", "no_such_block", "no_such_task", "no_such_transaction", "not_kept"}
UNREAD: Final = {"too_large": 413, "busy": 503, "too_slow": 408}
"""Refusals of bodies whose rest nobody reads any more."""

Bulk = Annotated[list[bytes], msgspec.Meta(max_length=MAX_BULK)]
Handler = Callable[[Request], Awaitable[Any]]
T = TypeVar("T")


@asynccontextmanager
async def in_turn(places: asyncio.Semaphore) -> AsyncIterator[None]:
    """Takes one of the places that there are between two turns of everything else.

    It is given back in the loop's next iteration, and whoever waited for it runs in the one after: what this slice has
    set going comes first. Nobody waits who comes alone.
    """
    await places.acquire()
    try:
        yield
    finally:
        asyncio.get_running_loop().call_soon(places.release)


class Api:
    """Routes requests to a node and its engine.

    Args:
        store: where blocks are kept with their certificates; None if the engine keeps them elsewhere.
        damaged: told when what was asked for is not what was written.
    """

    def __init__(
        self,
        node: Node,
        engine: Engine,
        status: Callable[[], views.Status],
        metrics: Callable[[], bytes],
        store: Store | None = None,
        bodies: Bodies | None = None,
        damaged: Callable[[DamagedError], None] = lambda error: None,
    ) -> None:
        self._node, self._engine, self._status, self._metrics, self._kept = node, engine, status, metrics, store
        self._damaged = damaged
        self._bodies = bodies or Bodies()
        self._slice = asyncio.Semaphore(1)
        """For what costs much: a page, or many transactions."""
        self._checks = asyncio.Semaphore(CHECKS)
        """For transactions that come alone."""
        self._counting = asyncio.Lock()
        self._counted: views.Money | None = None

    def application(self) -> Starlette:
        get = {
            "/v1/status": self._show_status,
            "/v1/transactions/{hash}": self._transaction,
            "/v1/accounts/{identity}": self._account,
            "/v1/money": self._money,
            "/v1/validators": self._sliced(self._validators),
            "/v1/tasks": self._tasks,
            "/v1/tasks/{task}": self._sliced(self._task),
            "/v1/tasks/{task}/history": self._sliced(self._history),
            "/v1/assignments/{identity}": self._work,
            "/v1/anchors/{digest}": self._anchor,
            "/v1/events": self._events,
            "/v1/blocks/{height}": self._sliced(self._block),
            "/v1/blocks": self._sliced(self._blocks),
            "/v1/history": self._sliced(self._checkpoints),
        }
        routes = [Route(path, self._replying(handler)) for path, handler in get.items()]
        routes.append(Route("/v1/transactions", self._replying(self._submit), methods=["POST"]))
        routes.append(Route("/v1/transactions/bulk", self._replying(self._submit_many), methods=["POST"]))
        routes.append(Route("/metrics", self._sliced(self._show_metrics)))
        return Starlette(routes=routes)

    async def _show_status(self, request: Request) -> views.Status:
        return self._status()

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._metrics(), media_type=METRICS_TYPE)

    async def _submit(self, request: Request) -> views.Submitted:
        async with self._bodies.read(request, MAX_TRANSACTION_BYTES) as data:
            async with in_turn(self._checks):
                handed = self._hand_in(data)
            return await self._settled(data, handed, time.monotonic() + _wait_seconds(request))

    async def _submit_many(self, request: Request) -> views.SubmittedMany:
        async with self._bodies.read(request, MAX_BULK_BYTES) as data:
            transactions = from_bytes(data, Bulk, limit=MAX_BULK_BYTES, what="transactions")
            give_up = time.monotonic() + _wait_seconds(request)
            handed = await self._hand_in_many(transactions)
            pairs = zip(transactions, handed, strict=True)
            return views.SubmittedMany([await self._settled(each, first, give_up) for each, first in pairs])

    async def _hand_in_many(self, transactions: list[bytes]) -> list[views.Submitted]:
        handed: list[views.Submitted] = []
        async for some in self._slices(transactions, CHECKS):
            handed += map(self._hand_in_one_of_many, some)
        return handed

    def _hand_in_one_of_many(self, transaction: bytes) -> views.Submitted:
        try:
            return self._hand_in(transaction)
        except Refused as refused:
            return views.Submitted(blob_name(transaction), None, views.Failure(refused.code, refused.reason))

    def _hand_in(self, transaction: bytes) -> views.Submitted:
        """Hands a transaction to the engine, unless it was executed before."""
        known = self._node.outcome(transaction)
        if known is None:
            self._engine.submit(transaction)
        return views.Submitted(blob_name(transaction), known)

    async def _settled(self, transaction: bytes, handed: views.Submitted, give_up: float) -> views.Submitted:
        """Waits for what becomes of a transaction that was handed in, until `give_up` on the monotonic clock."""
        if handed.outcome is not None or handed.refusal is not None:
            return handed
        await self._node.until_executed(handed.hash, max(give_up - time.monotonic(), 0))
        return views.Submitted(handed.hash, self._node.outcome(transaction))

    async def _transaction(self, request: Request) -> views.TransactionView:
        name = request.path_params["hash"]
        if is_name(name):
            await self._node.until_executed(name, _wait_seconds(request))
        found = self._node.journal.result(name) if is_name(name) else None
        if found is None:
            raise Refused("no_such_transaction", f"transaction {name[:64]}: not executed here (yet)")
        return found

    async def _account(self, request: Request) -> views.AccountView:
        identity = request.path_params["identity"]
        return views.account_view(identity, self._node.state.accounts.get(identity, Account()))

    async def _money(self, request: Request) -> views.Money:
        """One count for all who asked before it began."""
        asked = self._node.height
        async with self._counting:
            if self._counted is None or self._counted.height < asked:
                self._counted = await self._count(self._node.state)
            return self._counted

    async def _count(self, state: State) -> views.Money:
        """A state never changes, so blocks that are executed meanwhile do no harm."""
        held = 0
        async for accounts in self._slices(state.accounts.values(), WALKED):
            held += views.held_by(accounts)
        return views.money(state, held)

    async def _validators(self, request: Request) -> views.Validators:
        return views.validators(self._node.state)

    async def _tasks(self, request: Request) -> list[views.TaskView]:
        state, after = self._node.state, request.query_params.get("after", "")
        names: list[str] = []
        async for some in self._slices(state.tasks, WALKED):
            names = nsmallest(views.MAX_TASKS, (*names, *(name for name in some if name > after)))
        return views.task_page(state, names)

    async def _task(self, request: Request) -> views.TaskView:
        return views.task_view(self._find_task(request))

    async def _history(self, request: Request) -> views.History:
        return views.history(self._find_task(request), _number(request, "start"))

    async def _work(self, request: Request) -> views.Work:
        identity, mark = request.path_params["identity"], request.query_params.get("mark", "")

        async def look() -> views.Work:
            async with in_turn(self._slice):
                return views.work(self._node.state, identity)

        async def changed() -> views.Work | None:
            work = await look()
            return work if work.mark != mark else None

        return await self._node.until(changed, _wait_seconds(request)) or await look()

    async def _anchor(self, request: Request) -> views.AnchorView:
        name = request.path_params["digest"]
        found = self._node.state.anchors.get(name) if is_name(name) else None
        if found is None:
            raise Refused("no_such_anchor", f"anchor {name[:64]}: not on this ledger (yet)")
        return views.AnchorView(name, found.identity, found.height, found.time_ms, found.number)

    async def _events(self, request: Request) -> views.Events:
        after = _number(request, "after")

        async def later() -> list[views.EventView] | None:
            if after >= self._node.state.events:
                return None
            async with in_turn(self._slice):
                return self._node.journal.events(after) or None

        return views.Events(await self._node.until(later, _wait_seconds(request)) or [])

    async def _block(self, request: Request) -> views.BlockView:
        height, store = _whole_number("height", request.path_params["height"]), self._store
        for stored in store.blocks(height, height):
            return views.BlockView(stored.block, stored.certificate)
        here = f"{store.first_height()} to {self._node.height} are here"
        raise Refused("no_such_block", f"block {height}: {here}; other validators may keep more")

    async def _blocks(self, request: Request) -> views.Blocks:
        start = max(_number(request, "start"), self._store.first_height())
        chosen = self._store.blocks_within(start, start + views.MAX_BLOCKS - 1, MAX_ANSWER_BYTES)
        return views.Blocks([views.BlockView(stored.block, stored.certificate) for stored in chosen])

    async def _checkpoints(self, request: Request) -> views.Checkpoints:
        stable = self._store.checkpoint()
        changes = self._store.history(_number(request, "start"), views.MAX_PROOFS)
        return views.Checkpoints(list(changes), stable.proof if stable else b"")

    @property
    def _store(self) -> Store:
        if self._kept is None:
            raise Refused("not_kept", "this validator's blocks are CometBFT's: ask its node for block and commit")
        return self._kept

    def _find_task(self, request: Request) -> Task:
        name = request.path_params["task"]
        task = self._node.state.tasks.get(name) if is_name(name) else None
        if task is None:
            raise Refused("no_such_task", f"task {name[:64]}: not on this ledger (yet, or any more)")
        return task

    async def _slices(self, values: Iterable[T], size: int) -> AsyncIterator[list[T]]:
        """All of `values`, some at a time and each time in turn."""
        rest, more = iter(values), True
        while more:
            async with in_turn(self._slice):
                some = list(islice(rest, size))
                yield some
            more = len(some) == size

    def _sliced(self, handler: Handler) -> Handler:
        async def wait_and_handle(request: Request) -> Any:
            async with in_turn(self._slice):
                return await handler(request)

        return wait_and_handle

    def _replying(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Turns a handler's result, or its refusal, into a response."""

        async def respond(request: Request) -> Response:
            try:
                return _json(await handler(request), 200)
            except Refused as refused:
                failure = views.Failure(refused.code, refused.reason)
                if refused.code in UNREAD:
                    return _json(failure, UNREAD[refused.code], {"connection": "close"})
                return _json(failure, 404 if refused.code in NOT_FOUND else 400)
            except DamagedError as error:
                self._damaged(error)
                return _json(views.Failure("damaged", "this validator's files are damaged; ask another one"), 503)

        return respond


def _json(value: Any, code: int, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), code, headers, media_type="application/json")


def _number(request: Request, name: str) -> int:
    return _whole_number(name, request.query_params.get(name, "0"))


def _whole_number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Refused("malformed", f"{name}: a whole number is needed, got {text[:40]!r}")
    return int(text)


def _wait_seconds(request: Request) -> float:
    return min(_number(request, "wait_ms"), MAX_WAIT_MS) / 1000
