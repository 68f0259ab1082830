"""Blocks with the proof that a quorum agreed on them, in one file that anybody can check with the genesis document.

    "tallystick-blocks-v1\\n"
    header: chain, first and last height, checkpoints: those at which the validators changed, then the last one
    for each block: the block, its certificate

Header and blocks are MessagePack, each after its length in 4 bytes, big-endian.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from tallystick.canon.encoding import from_bytes, to_bytes
from tallystick.consensus.pbft import Group
from tallystick.consensus.pbft.limits import MAX_BLOCK_BYTES, MAX_CERTIFICATE_BYTES
from tallystick.consensus.pbft.messages import CertifiedBlock, decode_block
from tallystick.consensus.pbft.trust import ChainOfTrust
from tallystick.errors import Refused
from tallystick.network.dial import Validators, other_chain
from tallystick.network.store import Store
from tallystick.network.tables import StoreError

MAGIC: Final = b"tallystick-blocks-v1\n"
LENGTH_BYTES: Final = 4
MAX_HEADER_BYTES: Final = 64 * 2**20
MAX_RECORD_BYTES: Final = MAX_BLOCK_BYTES + MAX_CERTIFICATE_BYTES + 64


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    chain: str
    first: int
    last: int
    checkpoints: tuple[bytes, ...]


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
    head, stable, checkpoints = store.head(), store.checkpoint(), list(store.history())
    if stable is not None and stable.proof not in checkpoints[-1:]:
        checkpoints.append(stable.proof)
    trust = ChainOfTrust(genesis, checkpoints)
    first, last = store.first_height(), min(head.height if head else 0, trust.proven)
    if not 1 <= first <= last:
        raise StoreError(f"{store.path}: holds no blocks yet")
    header = Header(genesis.chain, first, last, tuple(checkpoints))
    _write_file(out, header, (CertifiedBlock(stored.block, stored.certificate) for stored in store.blocks(first, last)))
    return header


def fetch_export(validators: Validators, genesis: Group, out: Path) -> Header:
    """Writes all blocks that a running validator shows and that its checkpoints prove, each checked.

    Raises:
        Refused: there are none, or what is shown does not hold; then nothing is left behind.
        UnreachableError
    """
    status = validators.status()
    if other := other_chain(status, genesis.chain):
        raise Refused("wrong_chain", f"the validator {other}")
    trust, checkpoints = ChainOfTrust(genesis), list[bytes]()
    for proof in validators.checkpoints():
        trust.extend(proof)
        checkpoints.append(proof)
    oldest, last = validators.blocks(1)[:1], min(status.height, trust.proven)
    first = decode_block(oldest[0].block).height if oldest else last + 1
    if not 1 <= first <= last:
        raise Refused("no_such_block", "the validator holds no blocks that its checkpoints prove")
    header = Header(genesis.chain, first, last, tuple(checkpoints))
    _write_file(out, header, _fetch_blocks(validators, trust, first, last))
    return header


def _fetch_blocks(validators: Validators, trust: ChainOfTrust, first: int, last: int) -> Iterator[CertifiedBlock]:
    height = first
    while height <= last:
        page = validators.blocks(height)
        if not page:
            raise Refused("no_such_block", f"block {height}: the validator shows no more, though it named {last}")
        for shown in page[: last - height + 1]:
            trust.verify_block(height, shown.block, shown.certificate)
            yield CertifiedBlock(shown.block, shown.certificate)
            height += 1


def _write_file(out: Path, header: Header, blocks: Iterable[CertifiedBlock]) -> None:
    try:
        with out.open("wb") as file:
            file.write(MAGIC)
            _write(file, to_bytes(header))
            for certified in blocks:
                _write(file, to_bytes(certified))
    except BaseException:
        out.unlink(missing_ok=True)
        raise


def check_export(path: Path, genesis: Group) -> Checked:
    """Checks every block of an export against the validators that its checkpoints lead to.

    Raises:
        Refused: the first thing that does not hold.
    """
    try:
        with path.open("rb") as file:
            return _check_file(file, genesis)
    except Refused as refused:
        raise Refused(refused.code, f"{path}: {refused.reason}") from None


def _check_file(file: BinaryIO, genesis: Group) -> Checked:
    if file.read(len(MAGIC)) != MAGIC:
        raise Refused("malformed", "not an export of blocks")
    header: Header = from_bytes(_read(file, MAX_HEADER_BYTES), Header, limit=MAX_HEADER_BYTES, what="header")
    if header.chain != genesis.chain:
        raise Refused("wrong_chain", f"of chain {header.chain}, the genesis document is of {genesis.chain}")
    if not 1 <= header.first <= header.last:
        named = f"its header names blocks {header.first} to {header.last}"
        raise Refused("malformed", f"{named}; an export holds at least one block, and none below 1")
    transactions, trust = 0, ChainOfTrust(genesis, header.checkpoints)
    for height in range(header.first, header.last + 1):
        record = _read(file, MAX_RECORD_BYTES)
        what = f"block {height}"
        certified: CertifiedBlock = from_bytes(record, CertifiedBlock, limit=MAX_RECORD_BYTES, what=what)
        try:
            block, _ = trust.verify_block(height, certified.block, certified.certificate)
        except Refused as refused:
            raise Refused(refused.code, f"{what}: {refused.reason}") from None
        transactions += len(block.transactions)
    if file.read(1):
        raise Refused("malformed", f"goes on after block {header.last}")
    return Checked(header.chain, header.first, header.last, transactions, trust.changes)


def _write(file: BinaryIO, data: bytes) -> None:
    file.write(len(data).to_bytes(LENGTH_BYTES) + data)


def _read(file: BinaryIO, limit: int) -> bytes:
    size = int.from_bytes(file.read(LENGTH_BYTES))
    if not 0 < size <= limit:
        raise Refused("malformed", f"a record of {size} bytes, not 1 to {limit}; is the file whole?")
    data = file.read(size)
    if len(data) < size:
        raise Refused("truncated", f"ends {size - len(data)} bytes early; fetch it again")
    return data
