"""What to do with a validator's folder that does not hold what was written to it.

The damaged files are set aside, never deleted. Without the ledger's file nothing is lost: it is made again from the log
of consensus. Without the log, damaged or missing, nobody knows what this validator has signed, so the new one starts
*muted*: the node follows, asks a quorum which epoch it is, and votes again two epochs later, where none of the votes
that it may have given can meet the new ones.
"""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tallystick.ledger.genesis import Genesis, chain_id
from tallystick.network.genesis import read_genesis
from tallystick.network.node import Node
from tallystick.network.store import Store, create_store
from tallystick.network.tables import DamagedError
from tallystick.network.validator import CONSENSUS, GENESIS, LEDGER, own_key


@dataclass(frozen=True)
class Recovered:
    damage: str
    """What was found, in words; empty if there is nothing."""
    moved: tuple[str, ...]
    """Files that were set aside."""
    aside: str
    """Where they are."""
    muted: bool
    """Whether this validator is silent until a later epoch."""


def recover(home: Path) -> Recovered:
    """Sets aside what is damaged in a validator's folder, so that it can start again. Its key stays.

    Raises:
        GenesisFileError, KeyFileError, ValidatorError, StoreError: the folder cannot be helped in this way.
    """
    genesis = read_genesis(home / GENESIS)
    chain, identity = chain_id(genesis), own_key(home, genesis).identity
    aside = _free_name(home)
    if log := _damage_of_log(home, chain, identity):
        # A ledger ahead of an empty log would have nothing to go on from.
        moved = _set_aside(home, aside, Path(CONSENSUS).stem, Path(LEDGER).stem)
        create_store(home / CONSENSUS, chain, identity, muted=True)
    elif ledger := _damage_of_ledger(home, genesis, identity):
        moved = _set_aside(home, aside, Path(LEDGER).stem)
    else:
        return Recovered("", (), "", muted=False)
    return Recovered(log or ledger, tuple(moved), str(aside) if moved else "", muted=bool(log))


def _damage_of_log(home: Path, chain: str, identity: str) -> str:
    try:
        with closing(Store(home / CONSENSUS, chain, identity)) as store:
            store.check()
    except DamagedError as error:
        return error.damage
    return ""


def _damage_of_ledger(home: Path, genesis: Genesis, identity: str) -> str:
    with closing(Store(home / CONSENSUS, chain_id(genesis), identity)) as store:
        head = store.head()
        height = head.height if head else 0
    try:
        node = Node(genesis, home / LEDGER)
    except DamagedError as error:
        return error.damage
    node.journal.abandon()
    if node.height > height:
        return f"{home / LEDGER}: at block {node.height}, the log of consensus ends at {height}"
    return ""


def _free_name(home: Path) -> Path:
    number = 1
    while (home / f"damaged-{number}").exists():
        number += 1
    return home / f"damaged-{number}"


def _set_aside(home: Path, aside: Path, *stems: str) -> list[str]:
    files = [path for path in sorted(home.iterdir()) if path.is_file() and path.name.split(".")[0] in stems]
    if files:
        aside.mkdir()
    for path in files:
        path.rename(aside / path.name)
    return [path.name for path in files]
