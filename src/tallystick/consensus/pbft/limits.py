"""Every bound of the engine in one place. A peer can make us hold no more than these allow.

Bounds that two nodes must share to agree on what is valid are marked *agreed*; the rest may differ between nodes.
"""

from typing import Final

from tallystick.canon.quorum import quorum
from tallystick.canon.votes import MAX_VOTE_BYTES

MAX_VALIDATORS: Final = 31
"""*Agreed.* Ed25519 certificates and all-to-all votes are meant for about twenty."""
MAX_INTERVAL: Final = 64
"""*Agreed.* Largest checkpoint interval: a view change proves up to twice as many heights."""
MAX_TRANSACTION_BYTES: Final = 64 * 1024
"""*Agreed.* One transaction, sealed."""
MAX_BLOCK_TRANSACTIONS: Final = 2000
"""*Agreed.* About 0.1 s of signature checks on one core."""
MAX_BLOCK_BYTES: Final = 1024 * 1024
"""*Agreed.* One encoded block."""
MAX_CERTIFICATE_BYTES: Final = MAX_VALIDATORS * 256
"""*Agreed.* A sealed commit takes about 170 bytes."""
MAX_CHECKPOINT_BYTES: Final = MAX_CERTIFICATE_BYTES + 4096
"""*Agreed.* A stable checkpoint: its content names all validators."""
MAX_VIEW_CHANGE_BYTES: Final = 640 * 1024
"""*Agreed.* One sealed view change: a quorum of the largest group for each of `2 * MAX_INTERVAL` heights. With few
validators and the usual interval it takes some ten kilobytes."""
MAX_CLOCK_SKEW_MS: Final = 30_000
"""How far ahead of our own clock a proposal's time may be."""

MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
"""One sealed message on a channel. Holds a new view of the largest group, whatever f of its validators put into their
view changes."""
BLOCK_OVERHEAD_BYTES: Final = 512
"""What a block's header and list lengths take beside its transactions; 5 bytes more for each transaction."""
TRANSACTION_OVERHEAD_BYTES: Final = 5

MAX_EARLY_FRAMES: Final = 256
"""From one peer, of a view or epoch that we have not entered yet."""
MAX_EARLY_BYTES: Final = 2 * 1024 * 1024
"""Of these, together."""
MAX_EVIDENCE: Final = 4
"""Conflicts of one validator reported at most between two checkpoints."""
PIPELINE_TRANSACTIONS: Final = 256
"""While a block is in flight, another one is started only for this many: fewer, larger blocks cost less."""
PIPELINE_BYTES: Final = MAX_BLOCK_BYTES // 4
"""Or for this much: large transactions fill a block long before they are many."""

MAX_POOL_TRANSACTIONS: Final = 20_000
MAX_POOL_BYTES: Final = 32 * 1024 * 1024
MAX_RECENT: Final = 65_536
"""Hashes of committed transactions remembered, 32 bytes each."""
MAX_FORWARD_BYTES: Final = 512 * 1024
"""Transactions in one forward message."""
EXAMINED_IN_VAIN: Final = 512
"""Transactions of peers that are examined and not admitted between two ticks, in equal shares for all validators: one
that forwards what nobody admits takes no more of our time than that."""
MAX_FORWARDED: Final = 20_000
"""From one peer, that wait to be examined: none of one that forwards what we admit."""
MAX_FORWARDED_BYTES: Final = 8 * 1024 * 1024
"""Of these, together."""
MAX_RECHECKED: Final = 256
"""Waiting transactions that are examined and forwarded again in one round."""
SHARE_PART: Final = 10
"""A transaction that was handed in here is forwarded to the primary alone, and to everybody after this part of the
patience with a primary, or after `RECHECK_MS` if that is sooner."""
RECHECK_MS: Final = 1_000
"""How often waiting transactions are looked at again; one of our own that has waited this long is forwarded again."""
RELAY_MS: Final = 5_000
"""When a transaction that a peer forwarded to us is forwarded again by us, in case that peer died."""

RETRANSMIT_MS: Final = 250
"""Silence after which our messages for the current height are sent again."""
STATUS_MS: Final = 500
"""Interval of our height's announcement."""
BEHIND_MS: Final = 100
"""How long we may trail a peer before we ask for blocks; shorter gaps are messages still under way."""
FETCH_TIMEOUT_MS: Final = 1_000
"""How long a peer may take to answer before another one is asked, at first; see `asking`."""
MAX_FETCH_DOUBLINGS: Final = 4
MAX_BLOCKS_PER_ANSWER: Final = 64
MAX_ANSWER_BYTES: Final = 2 * 1024 * 1024
"""Blocks and certificates in one answer."""
ANSWERED_BYTES: Final = 8 * 1024 * 1024
"""Of answers in `ANSWERS_MS`, in equal shares for all validators: f of them make us spend a tenth of a core on that."""
ANSWER_OVERHEAD_BYTES: Final = 32 * 1024
"""What an answer costs beside its length, in bytes that cost as much."""
ANSWERS_MS: Final = 100
MAX_DEMANDS: Final = 3 * MAX_INTERVAL
"""Of one peer, that wait for an answer: a new view may have it ask for the blocks of two intervals."""
MAX_GUESTS: Final = 8
"""Who may follow without being a validator: newcomers, before their epoch begins."""

TIMEOUT_MS: Final = 1_000
"""How long a primary may take, at first; it doubles with each view that brings nothing."""
MAX_DOUBLINGS: Final = 6
TRANSFER_GAP: Final = 4
"""Checkpoint intervals by which we must trail a stable checkpoint to fetch its snapshot and not the blocks."""
MAX_CHUNKS_UNDER_WAY: Final = 4
STALLED_MS: Final = 20_000
"""A transfer of which nothing came for so long gives way to that of a later checkpoint: longer than we are patient."""
SILENT_MS: Final = 8_000
"""How long a peer that did not answer is asked last."""
READ_MS: Final = 180_000
"""How long a snapshot is kept for a peer after it asked for a part: one snapshot for each peer, whatever its age."""
MAX_PROOFS_PER_ANSWER: Final = 512
"""Changes of validators that a newcomer can be led through."""

assert MAX_BLOCK_BYTES + MAX_CERTIFICATE_BYTES < MAX_ANSWER_BYTES
assert MAX_PROOFS_PER_ANSWER * MAX_CHECKPOINT_BYTES < MAX_FRAME_BYTES
assert quorum(MAX_VALIDATORS) * MAX_VIEW_CHANGE_BYTES + 2 * MAX_INTERVAL * MAX_VOTE_BYTES < MAX_FRAME_BYTES
