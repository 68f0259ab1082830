"""How workers and clients reach validators: over HTTP, dialing out only, the next validator when one fails."""

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, TypeVar

import httpx
import msgspec

from tallystick.canon.encoding import to_bytes
from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import Key
from tallystick.errors import Refused, TallystickError
from tallystick.ledger.transactions import AnyBody, sign_transaction
from tallystick.network import views

T = TypeVar("T")

MAX_REPLY_BYTES: Final = 64 * 2**20
MAX_BLOCK_REPLY_BYTES: Final = 3 * 2**19
"""A block and its certificate, or a page of checkpoints, in Base64."""
MAX_BLOCKS_REPLY_BYTES: Final = 2 * MAX_BLOCK_REPLY_BYTES
CONNECT_SECONDS: Final = 3.0
REPLY_SECONDS: Final = 10.0
"""For a reply, beyond the time that the request itself asks the validator to wait."""
WAIT_MS: Final = 5_000
ROUNDS_OVER_ALL: Final = 3
PAUSE_SECONDS: Final = 0.2
EXECUTION_SECONDS: Final = 60.0


STILL_PENDING: Final = (
    "It may still be executed, unless another one of this account comes first: see `tallystick check-transaction`"
)


class UnreachableError(TallystickError):
    """No validator answers."""


class NotAReplyError(Refused):
    """What answers is no validator, or it spoils its answers. Refused as `malformed` or `too_large`."""


def other_chain(status: views.Status, chain: str) -> str:
    """In words, that a validator serves another chain than that of a genesis document; empty if it serves that one."""
    if status.chain == chain:
        return ""
    return f"serves chain {status.chain[:80]!r}, and the genesis document is of {chain!r}"


class Validators:
    """A list of validators of which any one will do.

    What a single validator says is not proof. Workers lose nothing by a lie but time, since a commitment to the wrong
    work is refused by all others; clients check results by their own means.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        if not urls:
            raise UnreachableError("no validator is known; name one with --join http://host:port")
        for url in urls:
            try:
                httpx.URL(url)
            except httpx.InvalidURL as error:
                raise UnreachableError(f"{url[:200]!r}: no URL: {error}; one looks like http://host:port") from None
        self._urls = [url.rstrip("/") for url in urls]
        self._current = 0
        self._http = httpx.Client(timeout=httpx.Timeout(REPLY_SECONDS, connect=CONNECT_SECONDS), trust_env=False)

    def __enter__(self) -> "Validators":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def status(self) -> views.Status:
        return self._get("/v1/status", views.Status)

    def account(self, identity: str) -> views.AccountView:
        return self._get(f"/v1/accounts/{identity}", views.AccountView)

    def money(self) -> views.Money:
        return self._get("/v1/money", views.Money)

    def validators(self) -> views.Validators:
        return self._get("/v1/validators", views.Validators)

    def tasks(self) -> list[views.TaskView]:
        """All tasks there are, in the order of their ids."""
        tasks: list[views.TaskView] = []
        while page := self._get(f"/v1/tasks?after={tasks[-1].id if tasks else ''}", list[views.TaskView]):
            tasks += page
        return tasks

    def task(self, task: str) -> views.TaskView:
        return self._get(f"/v1/tasks/{task}", views.TaskView)

    def history(self, task: str, start: int) -> list[views.StepView]:
        """All finished steps from `start` on."""
        steps: list[views.StepView] = []
        while True:
            page = self._get(f"/v1/tasks/{task}/history?start={start + len(steps)}", views.History).steps
            steps += page
            if len(page) < views.MAX_HISTORY:
                return steps

    def anchor(self, digest: str) -> views.AnchorView | None:
        """Who anchored `digest` first; None if nobody did."""
        try:
            return self._get(f"/v1/anchors/{digest}", views.AnchorView)
        except Refused as refused:
            if refused.code == "no_such_anchor":
                return None
            raise

    def block(self, height: int) -> views.BlockView:
        """A block as this validator has it; `committed` checks it."""
        return self._get(f"/v1/blocks/{height}", views.BlockView, limit=MAX_BLOCK_REPLY_BYTES)

    def blocks(self, start: int) -> list[views.BlockView]:
        """Some blocks in a row from `start` on, or from the oldest that is kept; none if there are no more."""
        return self._get(f"/v1/blocks?start={start}", views.Blocks, limit=MAX_BLOCKS_REPLY_BYTES).blocks

    def checkpoints(self) -> Iterator[bytes]:
        """Proofs of what is said to lead from genesis to the validators of now, fetched as they are asked for."""
        read, last = 0, b""
        while True:
            path = f"/v1/history?start={read}"
            page = self._get(path, views.Checkpoints, limit=MAX_BLOCK_REPLY_BYTES)
            yield from page.changes
            read, last = read + len(page.changes), page.changes[-1] if page.changes else last
            if len(page.changes) < views.MAX_PROOFS:
                if page.stable not in (b"", last):
                    yield page.stable
                return

    def transaction(self, name: str) -> views.TransactionView:
        """What became of a transaction, if this validator has executed it."""
        return self._get(f"/v1/transactions/{name}", views.TransactionView)

    def work(self, identity: str, mark: str) -> views.Work:
        return self._get(f"/v1/assignments/{identity}?mark={mark}&wait_ms={WAIT_MS}", views.Work, WAIT_MS)

    def events(self, after: int, wait_ms: int = WAIT_MS) -> list[views.EventView]:
        return self._get(f"/v1/events?after={after}&wait_ms={wait_ms}", views.Events, wait_ms).events

    def submit(self, transaction: bytes) -> views.TransactionView | None:
        """Hands in a sealed transaction and waits a little for its execution; None if that takes longer.

        Raises:
            Refused: with the validator's reason.
            UnreachableError
        """
        path, timeout = f"/v1/transactions?wait_ms={WAIT_MS}", REPLY_SECONDS + WAIT_MS / 1000
        return self._ask("POST", path, views.Submitted, timeout, transaction).outcome

    def submit_many(self, transactions: Sequence[bytes], wait_ms: int = WAIT_MS) -> list[views.Submitted]:
        """Hands in many sealed transactions at once, and returns what is known of each after at most `wait_ms`.

        Raises:
            Refused: there are too many of them, or too many bytes; what concerns one of them is in its answer.
            UnreachableError
        """
        path, timeout = f"/v1/transactions/bulk?wait_ms={wait_ms}", REPLY_SECONDS + wait_ms / 1000
        return self._ask("POST", path, views.SubmittedMany, timeout, to_bytes(list(transactions))).answers

    def outcome(self, transaction: bytes) -> views.TransactionView:
        """Waits until a submitted transaction has been executed, asking the other validators and handing it in again
        where it may have been lost.

        Raises:
            Refused: the transaction can no longer be executed.
            UnreachableError: nothing was heard of it for EXECUTION_SECONDS.
        """
        name = blob_name(transaction)
        give_up = time.monotonic() + EXECUTION_SECONDS
        while time.monotonic() < give_up:
            self._current += 1
            try:
                return self._get(f"/v1/transactions/{name}?wait_ms={WAIT_MS}", views.TransactionView, WAIT_MS)
            except Refused as refused:
                if refused.code != "no_such_transaction":
                    raise
            if (outcome := self._hand_in_again(transaction)) is not None:
                return outcome
        late = f"not heard of within {EXECUTION_SECONDS:.0f} s; is a quorum running?"
        raise UnreachableError(f"transaction {name}: {late} {STILL_PENDING}")

    def _hand_in_again(self, transaction: bytes) -> views.TransactionView | None:
        """A validator that executed it says so. One that knows only a later transaction of the same account calls the
        nonce stale, which says nothing of this one."""
        try:
            return self.submit(transaction)
        except Refused as refused:
            if refused.code != "stale_nonce":
                raise
            return None

    def _get(self, path: str, kind: type[T], wait_ms: int = 0, limit: int = MAX_REPLY_BYTES) -> T:
        return self._ask("GET", path, kind, timeout=REPLY_SECONDS + wait_ms / 1000, limit=limit)

    def _ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        timeout: float = REPLY_SECONDS,
        content: bytes = b"",
        limit: int = MAX_REPLY_BYTES,
    ) -> T:
        """One request, tried on every validator a few times before giving up."""
        problem = ""
        for attempt in range(ROUNDS_OVER_ALL * len(self._urls)):
            url = self._urls[self._current % len(self._urls)]
            try:
                return self._ask_one(method, url + path, kind, timeout, content, limit)
            except httpx.HTTPError as error:
                problem = f"{url}: {type(error).__name__}: {error}"
            except NotAReplyError as error:
                if len(self._urls) == 1:
                    raise
                problem = error.reason
            self._current += 1
            if (attempt + 1) % len(self._urls) == 0:
                time.sleep(PAUSE_SECONDS)
        raise UnreachableError(f"no validator answers; the last one tried was {problem}")

    def _ask_one(self, method: str, url: str, kind: type[T], timeout: float, content: bytes, limit: int) -> T:
        limits = httpx.Timeout(timeout, connect=CONNECT_SECONDS)
        with self._http.stream(method, url, content=content, timeout=limits) as response:
            data = bytearray()
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > limit:
                    raise NotAReplyError("too_large", f"{url}: the reply is over {limit} bytes")
        if response.status_code >= 500:
            said = f"{response.status_code} {response.reason_phrase}"
            raise httpx.HTTPStatusError(said, request=response.request, response=response)
        if response.status_code != 200:
            failure = _decode(bytes(data), views.Failure, url)
            raise Refused(failure.code, failure.reason)
        reply: T = _decode(bytes(data), kind, url)
        return reply


class Sender:
    """Signs transactions of one identity, one at a time, each with the next nonce.

    Args:
        told: called with a line for people when execution takes long.
    """

    def __init__(self, key: Key, validators: Validators, told: Callable[[str], None] = lambda line: None) -> None:
        self._key, self._validators, self._told = key, validators, told
        self._chain: str | None = None
        self._nonce: int | None = None
        """Of the last transaction; None when the ledger must be asked."""

    def sign(self, body: AnyBody) -> bytes:
        if self._chain is None:
            self._chain = self._validators.status().chain
        if self._nonce is None:
            self._nonce = self._validators.account(self._key.identity).nonce
        self._nonce += 1
        return sign_transaction(self._key, self._chain, self._nonce, body)

    def send(self, body: AnyBody) -> views.TransactionView:
        """Signs `body`, submits it and waits for its execution.

        Raises:
            Refused: by the validator, or by the ledger when it was executed.
            UnreachableError
        """
        transaction = self.sign(body)
        try:
            outcome = self._validators.submit(transaction)
            if outcome is None:
                long = f"not executed after {WAIT_MS / 1000:.0f} s; waiting for {EXECUTION_SECONDS:.0f} s more"
                self._told(f"transaction {blob_name(transaction)[:12]}: {long}")
                outcome = self._validators.outcome(transaction)
        except TallystickError:
            self._nonce = None
            raise
        except KeyboardInterrupt:
            self._told(f"transaction {blob_name(transaction)}: {STILL_PENDING}")
            raise
        if outcome.code != "ok":
            raise Refused(outcome.code, outcome.reason)
        return outcome


def _decode(data: bytes, kind: Any, url: str) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotAReplyError("malformed", f"{url}: not a validator's reply: {error}") from None
