"""How CometBFT names our chains, and what its parameters may be.

Our genesis document stays in each node's home; CometBFT's names it by its chain id, which holds 128 bits of its hash.
So the application state in CometBFT's document is empty, and a node that starts from a snapshot, which is never shown
that document, knows its network as well as the others do.
"""

from typing import Final

from tallystick.consensus.cometbft.values import ABCIParams, BlockParams, ConsensusParams
from tallystick.errors import Refused

APP_VERSION: Final = 1
"""Of the rules and of how blocks become ledger blocks; in every header."""
MAX_CHAIN_CHARACTERS: Final = 50
"""CometBFT's limit on a chain id."""
HASH_CHARACTERS: Final = 32
MAX_BLOCK_BYTES: Final = 8 * 2**20
"""A block of this size fits a frame (`connection.MAX_FRAME_BYTES`), and as many of the smallest transactions as it
holds fit a message (`protobuf.MAX_ELEMENTS`). CometBFT sends a decided block whatever we think of it."""


def comet_chain(chain: str) -> str:
    """Our chain id, with its name cut so that the whole fits CometBFT's limit; the hash stays.

    >>> comet_chain("a-very-long-name-for-a-network-" + "0" * 32)
    'a-very-long-name-00000000000000000000000000000000'
    """
    name, _, tail = chain.rpartition("-")
    return f"{name[: MAX_CHAIN_CHARACTERS - HASH_CHARACTERS - 1].rstrip('-')}-{tail}"


def require_params(params: ConsensusParams | None) -> None:
    """Checks the parameters of CometBFT's genesis document, which are never changed later.

    Raises:
        Refused: `wrong_params`
    """
    block, abci = (params and params.block) or BlockParams(), (params and params.abci) or ABCIParams()
    if not 1 <= block.max_bytes <= MAX_BLOCK_BYTES:
        raise Refused("wrong_params", f"block.max_bytes {block.max_bytes}: it may be 1 to {MAX_BLOCK_BYTES}")
    if abci.vote_extensions_enable_height:
        raise Refused("wrong_params", "abci.vote_extensions_enable_height: must be 0, votes are not extended")
