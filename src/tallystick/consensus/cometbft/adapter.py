"""The ledger as an ABCI application: one method for each request of CometBFT.

What CometBFT promises and asks, from its specification (spec/abci of v0.38), and what follows here:

- FinalizeBlock must not persist and Commit must. CometBFT saves what FinalizeBlock answered between the two; a ledger
  that were a block ahead after a crash there could not be started again. So `Ledger.finalize` keeps nothing.
- After a crash it asks Info and sends again what we have not committed, from its own store. A ledger may be any number
  of blocks behind, so it need not force every commit to disk, but never ahead.
- ProcessProposal must say the same everywhere: it depends on the block and the last committed state alone. What
  PrepareProposal lets through, it accepts, since both ask the same question of each transaction.
- A block is executed even if transactions in it are refused; refusal is a result.
- The four connections see one state, since requests are answered one at a time.
"""

from collections.abc import Callable
from typing import Any, Final

from tallystick.canon.chunks import chunk
from tallystick.consensus.cometbft import messages as abci
from tallystick.consensus.cometbft import snapshots, values
from tallystick.consensus.cometbft.chain import APP_VERSION, comet_chain, require_params
from tallystick.consensus.cometbft.port import Ledger, Notice, Result, Shelf
from tallystick.consensus.cometbft.protobuf import delimited
from tallystick.consensus.cometbft.validators import changes, offenses, require_same_set, update_of
from tallystick.consensus.port import CommittedBlock
from tallystick.errors import Refused

OK, REFUSED = 0, 1
"""Codes of transactions and queries; why it was refused is in `data`, which nodes agree on, and in `log`."""
CODESPACE: Final = "tallystick"
HASH_BYTES: Final = 32
FILTER_PATH: Final = "/p2p/filter/"
"""What CometBFT asks about new peers when its `filter_peers` is set; we have no opinion."""
EMPTY_STATES: Final = (b"", b"{}", b"null")
MAX_TIME_MS: Final = 2**53
LISTED_SNAPSHOTS: Final = 10
"""CometBFT offers no more than this to a peer."""


class Adapter:
    """Answers the requests of one CometBFT node.

    Args:
        version: of this program, for people.
        snapshot_interval: a snapshot is taken at every height that is a multiple of this.
        retain_blocks: how many blocks CometBFT must keep; it may delete older ones. 0 keeps all.
    """

    def __init__(
        self, ledger: Ledger, shelf: Shelf, *, version: str, snapshot_interval: int = 1000, retain_blocks: int = 0
    ) -> None:
        self._ledger, self._shelf, self._version = ledger, shelf, version
        self._interval, self._retain = snapshot_interval, retain_blocks
        self._finalized: int | None = None
        """Height of the block that is executed and not committed."""
        self._offers: dict[int, values.Snapshot] = {}
        """Descriptions of the snapshots on the shelf, by height, made when they are first asked for."""
        self._restoration: snapshots.Restoration | None = None
        self._methods: Final[dict[type[Any], Callable[[Any], Any]]] = {
            abci.RequestEcho: self.echo,
            abci.RequestFlush: self.flush,
            abci.RequestInfo: self.info,
            abci.RequestInitChain: self.init_chain,
            abci.RequestQuery: self.query,
            abci.RequestCheckTx: self.check_tx,
            abci.RequestCommit: self.commit,
            abci.RequestListSnapshots: self.list_snapshots,
            abci.RequestOfferSnapshot: self.offer_snapshot,
            abci.RequestLoadSnapshotChunk: self.load_snapshot_chunk,
            abci.RequestApplySnapshotChunk: self.apply_snapshot_chunk,
            abci.RequestPrepareProposal: self.prepare_proposal,
            abci.RequestProcessProposal: self.process_proposal,
            abci.RequestExtendVote: self.extend_vote,
            abci.RequestVerifyVoteExtension: self.verify_vote_extension,
            abci.RequestFinalizeBlock: self.finalize_block,
        }

    def answer(self, request: Any) -> Any:
        """The response to any request.

        Raises:
            Refused: CometBFT and we do not agree on where we are, or on which network; it must not go on.
        """
        return self._methods[type(request)](request)

    # ---- any connection

    def echo(self, request: abci.RequestEcho) -> abci.ResponseEcho:
        return abci.ResponseEcho(request.message)

    def flush(self, request: abci.RequestFlush) -> abci.ResponseFlush:
        return abci.ResponseFlush()

    # ---- query connection

    def info(self, request: abci.RequestInfo) -> abci.ResponseInfo:
        ledger = self._ledger
        digest = ledger.digest if ledger.height else b""
        return abci.ResponseInfo(CODESPACE, self._version, APP_VERSION, ledger.height, digest)

    def query(self, request: abci.RequestQuery) -> abci.ResponseQuery:
        height = self._ledger.height
        try:
            if request.prove:
                raise Refused("no_proofs", "query: the ledger has no proofs of single entries; ask without `prove`")
            if request.height not in (0, height):
                raise Refused("no_such_height", f"query: only height {height} is here, not {request.height}")
            if request.path.startswith(FILTER_PATH):
                return abci.ResponseQuery(OK, height=height)
            value = self._ledger.query(request.path, request.data)
        except Refused as refused:
            return abci.ResponseQuery(
                REFUSED, log=refused.reason, info=refused.code, height=height, codespace=CODESPACE
            )
        return abci.ResponseQuery(OK, key=request.data, value=value, height=height)

    # ---- mempool connection

    def check_tx(self, request: abci.RequestCheckTx) -> abci.ResponseCheckTx:
        """Also for a recheck after a block (`CheckTxType.RECHECK`): the nonce may be used now."""
        try:
            self._ledger.admit(request.tx)
        except Refused as refused:
            return abci.ResponseCheckTx(REFUSED, refused.code.encode(), refused.reason, codespace=CODESPACE)
        return abci.ResponseCheckTx(OK, gas_wanted=1)

    # ---- consensus connection

    def init_chain(self, request: abci.RequestInitChain) -> abci.ResponseInitChain:
        ledger = self._ledger
        if ledger.height != 0:
            raise Refused(
                "not_at_genesis",
                f"CometBFT starts a new chain, but the ledger is at height {ledger.height}; one of the two folders was "
                "deleted: restore it, or delete both to start over",
            )
        chain, start_ms = comet_chain(ledger.chain), _millis(request.time)
        if request.chain_id != chain:
            raise Refused("wrong_chain", f"CometBFT's chain is {request.chain_id[:64]!r}, the ledger's is {chain!r}")
        if start_ms != ledger.genesis_ms or request.initial_height != 1:
            raise Refused(
                "wrong_genesis",
                f"CometBFT starts at height {request.initial_height}, {start_ms} ms; the ledger at 1, "
                f"{ledger.genesis_ms} ms; write CometBFT's genesis document with `tallystick abci genesis`",
            )
        if request.app_state_bytes not in EMPTY_STATES:
            raise Refused("wrong_genesis", "CometBFT's genesis document has an app_state; ours is in genesis.json")
        require_params(request.consensus_params)
        require_same_set(request.validators, ledger.validators())
        initial = tuple(update_of(identity) for identity in sorted(ledger.validators()))
        return abci.ResponseInitChain(validators=initial, app_hash=ledger.digest)

    def prepare_proposal(self, request: abci.RequestPrepareProposal) -> abci.ResponsePrepareProposal:
        """What is authentic, once, in the order of the mempool, up to the size of a block."""
        room, chosen = request.max_tx_bytes, dict[bytes, None]()
        for transaction in request.txs:
            if transaction in chosen or not self._authentic(transaction):
                continue
            room -= len(delimited(1, transaction))  # as CometBFT counts it
            if room < 0:
                break
            chosen[transaction] = None
        return abci.ResponsePrepareProposal(tuple(chosen))

    def process_proposal(self, request: abci.RequestProcessProposal) -> abci.ResponseProcessProposal:
        """Refuses what no honest proposer sends: transactions that nobody signed, or one of them twice."""
        sound = (
            request.height == self._ledger.height + 1
            and _millis(request.time) >= self._ledger.time_ms
            and len(set(request.txs)) == len(request.txs)
            and all(self._authentic(transaction) for transaction in request.txs)
        )
        return abci.ResponseProcessProposal(abci.Verdict.ACCEPT if sound else abci.Verdict.REJECT)

    def extend_vote(self, request: abci.RequestExtendVote) -> abci.ResponseExtendVote:
        """Votes are not extended; the genesis document switches extensions off."""
        return abci.ResponseExtendVote()

    def verify_vote_extension(self, request: abci.RequestVerifyVoteExtension) -> abci.ResponseVerifyVoteExtension:
        return abci.ResponseVerifyVoteExtension(abci.Verdict.REJECT if request.vote_extension else abci.Verdict.ACCEPT)

    def finalize_block(self, request: abci.RequestFinalizeBlock) -> abci.ResponseFinalizeBlock:
        ledger, time_ms = self._ledger, _millis(request.time)
        if request.height != ledger.height + 1:
            raise Refused("wrong_height", f"block {request.height} cannot follow block {ledger.height} of the ledger")
        if time_ms < ledger.time_ms or len(request.hash) != HASH_BYTES:
            raise Refused("malformed", f"block {request.height}: time before its parent's, or a hash of wrong length")
        block = CommittedBlock(request.height, time_ms, request.hash, request.txs, b"")
        before = ledger.validators()
        self._finalized = None
        outcome = ledger.finalize(block, offenses(request.misbehavior, ledger.answerable()))
        updates = changes(before, outcome.validators)
        self._finalized = request.height
        return abci.ResponseFinalizeBlock(
            events=tuple(map(_event, outcome.notices)),
            tx_results=tuple(map(_result, outcome.results)),
            validator_updates=updates,
            app_hash=outcome.digest,
        )

    def commit(self, request: abci.RequestCommit) -> abci.ResponseCommit:
        if self._finalized is None:
            raise Refused("nothing_to_commit", f"no block after {self._ledger.height} was finalized here")
        self._ledger.commit()
        self._finalized = None
        height = self._ledger.height
        if height % self._interval == 0:
            self._shelf.save(height, self._ledger.snapshot())
        return abci.ResponseCommit(self._retain_height())

    # ---- snapshot connection

    def list_snapshots(self, request: abci.RequestListSnapshots) -> abci.ResponseListSnapshots:
        heights = sorted(self._shelf.heights())[-LISTED_SNAPSHOTS:]
        offers = [offer for height in heights if (offer := self._describe(height))]
        self._offers = {offer.height: offer for offer in offers}
        return abci.ResponseListSnapshots(tuple(offers))

    def load_snapshot_chunk(self, request: abci.RequestLoadSnapshotChunk) -> abci.ResponseLoadSnapshotChunk:
        """Empty if it is not here any more: CometBFT tells the peer so."""
        data = self._shelf.load(request.height) if request.format == snapshots.FORMAT else None
        return abci.ResponseLoadSnapshotChunk(chunk(data or b"", request.chunk))

    def offer_snapshot(self, request: abci.RequestOfferSnapshot) -> abci.ResponseOfferSnapshot:
        verdict = snapshots.judge(request)
        if self._ledger.height != 0:
            verdict = abci.Offer.ABORT  # CometBFT asks only a node without state; what we have is not given up
        self._restoration = None
        if verdict == abci.Offer.ACCEPT and request.snapshot:
            offer = request.snapshot
            self._restoration = snapshots.Restoration(offer.metadata, offer.chunks, self._ledger.restore)
        return abci.ResponseOfferSnapshot(verdict)

    def apply_snapshot_chunk(self, request: abci.RequestApplySnapshotChunk) -> abci.ResponseApplySnapshotChunk:
        if self._restoration is None:
            return abci.ResponseApplySnapshotChunk(abci.Applied.ABORT)
        response = self._restoration.apply(request)
        if self._restoration.finished or response.result == abci.Applied.REJECT_SNAPSHOT:
            self._restoration = None
        return response

    # ---- parts

    def _authentic(self, transaction: bytes) -> bool:
        try:
            self._ledger.check(transaction)
        except Refused:
            return False
        return True

    def _describe(self, height: int) -> values.Snapshot | None:
        if height in self._offers:
            return self._offers[height]
        data = self._shelf.load(height)
        return snapshots.describe(height, data) if data else None

    def _retain_height(self) -> int:
        """Never above the oldest snapshot: whoever restores it needs the blocks from there on, and so does a ledger
        that starts from what it had on disk when it took a later one."""
        if not self._retain:
            return 0
        oldest = min(self._shelf.heights(), default=0)
        return max(0, min(self._ledger.height - self._retain, oldest))


def _millis(time: values.Timestamp | None) -> int:
    """Whole milliseconds since the epoch, rounded down, so that time never runs backward where CometBFT's does not.

    Raises:
        Refused: `malformed`
    """
    if time is None or not 0 <= time.nanos < 10**9 or not 0 <= time.seconds < MAX_TIME_MS // 1000:
        raise Refused("malformed", "a block's time is missing, before 1970 or out of range")
    return time.seconds * 1000 + time.nanos // 10**6


def _result(result: Result) -> values.ExecTxResult:
    if result.code == "ok":
        return values.ExecTxResult(OK)
    return values.ExecTxResult(REFUSED, result.code.encode(), result.reason, codespace=CODESPACE)


def _event(notice: Notice) -> values.Event:
    return values.Event(notice.kind, tuple(values.EventAttribute(key, value, True) for key, value in notice.attributes))
