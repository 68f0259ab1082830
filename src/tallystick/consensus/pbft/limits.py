"""Every bound of the engine in one place. A peer can make us hold no more than these allow.

Bounds that two nodes must share to agree on what is valid are marked *agreed*; the rest may differ between nodes.
"""

from typing import Final

MAX_VALIDATORS: Final = 64
"""*Agreed.* Ed25519 certificates and all-to-all votes are meant for about twenty."""
MAX_TRANSACTION_BYTES: Final = 64 * 1024
"""*Agreed.* One transaction, sealed."""
MAX_BLOCK_TRANSACTIONS: Final = 2000
"""*Agreed.* About 0.1 s of signature checks on one core."""
MAX_BLOCK_BYTES: Final = 1024 * 1024
"""*Agreed.* One encoded block."""
MAX_CERTIFICATE_BYTES: Final = MAX_VALIDATORS * 256
"""*Agreed.* A sealed commit takes about 150 bytes."""
MAX_CLOCK_SKEW_MS: Final = 30_000
"""How far ahead of our own clock a proposal's time may be."""

MAX_FRAME_BYTES: Final = 2 * 1024 * 1024
"""One sealed message on a channel. Holds the largest block with its certificate."""
MAX_VOTE_BYTES: Final = 512
"""One sealed vote inside another message."""
BLOCK_OVERHEAD_BYTES: Final = 512
"""What a block's header and list lengths take beside its transactions; 5 bytes more for each transaction."""
TRANSACTION_OVERHEAD_BYTES: Final = 5

HEIGHT_MARGIN: Final = 4
"""Heights beyond the next one for which messages are held: channels from different peers overtake one another."""
MAX_EVIDENCE: Final = 64
"""Pairs of conflicting votes kept."""

MAX_POOL_TRANSACTIONS: Final = 20_000
MAX_POOL_BYTES: Final = 32 * 1024 * 1024
MAX_RECENT: Final = 65_536
"""Hashes of committed transactions remembered, 32 bytes each."""
MAX_FORWARD_BYTES: Final = 512 * 1024
"""Transactions in one forward message."""
MAX_RECHECKED: Final = 256
"""Waiting transactions that are examined and forwarded again in one round."""
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
"""How long a peer may take to answer before another one is asked."""
MAX_BLOCKS_PER_ANSWER: Final = 64
MAX_ANSWER_BYTES: Final = MAX_FRAME_BYTES - 64 * 1024
"""Blocks and certificates in one answer."""
MAX_ANSWERS_PER_TICK: Final = 8
"""Answers to one peer between two ticks; reading blocks costs us disk and a signature over megabytes."""

assert MAX_BLOCK_BYTES + MAX_CERTIFICATE_BYTES < MAX_ANSWER_BYTES
