"""How CometBFT names our chains.

Our genesis document stays in each node's home; CometBFT's names it by its chain id, which holds 128 bits of its hash.
So the application state in CometBFT's document is empty, and a node that starts from a snapshot, which is never shown
that document, knows its network as well as the others do.
"""

from typing import Final

APP_VERSION: Final = 1
"""Of the rules and of how blocks become ledger blocks; in every header."""
MAX_CHAIN_CHARACTERS: Final = 50
"""CometBFT's limit on a chain id."""
HASH_CHARACTERS: Final = 32


def comet_chain(chain: str) -> str:
    """Our chain id, with its name cut so that the whole fits CometBFT's limit; the hash stays.

    >>> comet_chain("a-very-long-name-for-a-network-" + "0" * 32)
    'a-very-long-name-00000000000000000000000000000000'
    """
    name, _, tail = chain.rpartition("-")
    return f"{name[: MAX_CHAIN_CHARACTERS - HASH_CHARACTERS - 1].rstrip('-')}-{tail}"
