"""Blocks with the proof that a quorum agreed on them, in one file that anybody can check with the genesis document.

    "tallystick-blocks-v1\\n"
    header: chain, first and last height, checkpoints: those at which the validators changed, then the last one
    for each block: the block, its certificate

Header and blocks are MessagePack, each after its length in 4 bytes, big-endian.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from tallystick.canon.encoding import from_bytes, to_bytes
from tallystick.consensus.pbft import Group
from tallystick.consensus.pbft.limits import MAX_BLOCK_BYTES, MAX_CERTIFICATE_BYTES
from tallystick.consensus.pbft.trust import ChainOfTrust
from tallystick.errors import Refused
from tallystick.network.store import Store, StoreError

MAGIC: Final = b"tallystick-blocks-v1\n"
LENGTH_BYTES: Final = 4
MAX_HEADER_BYTES: Final = 64 * 2**20
MAX_RECORD_BYTES: Final = MAX_BLOCK_BYTES + MAX_CERTIFICATE_BYTES + 64


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    chain: str
    first: int
    last: int
    checkpoints: tuple[bytes, ...]


class Certified(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    block: bytes
    certificate: bytes


@dataclass(frozen=True)
class Checked:
    chain: str
    first: int
    last: int
    transactions: int
    validator_changes: int


def write_export(store: Store, genesis: Group, out: Path) -> Header:
    """Writes all blocks that `store` still holds and that its checkpoints prove.

    Raises:
        StoreError: there are none.
    """
    head, trust, checkpoints = store.head(), ChainOfTrust(genesis), list(store.history())
    stable = store.checkpoint()
    if stable is not None and stable.proof not in checkpoints[-1:]:
        checkpoints.append(stable.proof)
    for proof in checkpoints:
        trust.extend(proof)
    first, last = store.first_height(), min(head.height if head else 0, trust.proven)
    if first > last:
        raise StoreError(f"{store.path}: holds no blocks yet")
    header = Header(genesis.chain, first, last, tuple(checkpoints))
    with out.open("wb") as file:
        file.write(MAGIC)
        _write(file, to_bytes(header))
        for stored in store.blocks(first, last):
            _write(file, to_bytes(Certified(stored.block, stored.certificate)))
    return header


def check_export(path: Path, genesis: Group) -> Checked:
    """Checks every block of an export against the validators that its checkpoints lead to.

    Raises:
        Refused: the first thing that does not hold.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise Refused("malformed", f"{path}: not an export of blocks")
        header: Header = from_bytes(_read(file, MAX_HEADER_BYTES), Header, limit=MAX_HEADER_BYTES, what="header")
        if header.chain != genesis.chain:
            raise Refused("wrong_chain", f"{path}: of chain {header.chain}, the genesis document is of {genesis.chain}")
        transactions, trust = 0, ChainOfTrust(genesis)
        for proof in header.checkpoints:
            trust.extend(proof)
        for height in range(header.first, header.last + 1):
            record = _read(file, MAX_RECORD_BYTES)
            certified: Certified = from_bytes(record, Certified, limit=MAX_RECORD_BYTES, what=f"block {height}")
            block, _ = trust.verify_block(height, certified.block, certified.certificate)
            transactions += len(block.transactions)
        if file.read(1):
            raise Refused("malformed", f"{path}: goes on after block {header.last}")
    return Checked(header.chain, header.first, header.last, transactions, trust.changes)


def _write(file: BinaryIO, data: bytes) -> None:
    file.write(len(data).to_bytes(LENGTH_BYTES) + data)


def _read(file: BinaryIO, limit: int) -> bytes:
    size = int.from_bytes(file.read(LENGTH_BYTES))
    if not 0 < size <= limit:
        raise Refused("malformed", f"a record of {size} bytes, 1 to {limit} are admitted; is the file whole?")
    data = file.read(size)
    if len(data) < size:
        raise Refused("truncated", f"the file ends {size - len(data)} bytes early")
    return data
