"""What a node's disk and application answer when its replica asks, and what the replica starts from."""

from tallystick.canon.chunks import manifest_of, root_of
from tallystick.consensus.pbft.group import Group
from tallystick.consensus.pbft.io import (
    BlocksRead,
    BodyRead,
    Certified,
    ChunkRead,
    Durable,
    Outcome,
    ReadBlocks,
    ReadBody,
    ReadChunk,
    Restore,
    Restored,
)
from tallystick.consensus.pbft.messages import decode_block
from tallystick.consensus.port import Application, CommittedBlock
from tallystick.network.store import MANIFEST, Store, StoredBlock
from tallystick.network.tables import DamagedError


def recover(genesis: Group, application: Application, store: Store) -> Durable:
    """Brings the application to where the store is, and returns what the replica starts from."""
    head, checkpoint = store.head(), store.checkpoint()
    height = head.height if head else 0
    if application.height != height and not store.first_height() <= application.height + 1 <= height:
        # It is ahead, if the machine died between two moments of forcing to disk; or it missed a restore.
        snapshot = store.snapshot(checkpoint.height) if checkpoint else None
        if snapshot is None:
            reason = f"the ledger is at block {application.height}, this log ends at {height}"
            raise DamagedError(store.path, f"{reason} without a snapshot to start from")
        application.restore(snapshot)
    for stored in store.blocks(application.height + 1, height):
        application.execute(_committed(stored))
        if genesis.is_checkpoint(stored.height):
            keep_outcome(application, store, stored.height)
    if application.height != height:
        reason = f"the ledger is at block {application.height}, blocks up to {height} cannot be read"
        raise DamagedError(store.path, reason)
    stable = checkpoint.height if checkpoint else 0
    certified = tuple(
        Certified(stored.height, genesis.block_digest(stored.block), stored.certificate)
        for stored in store.blocks(stable + 1, height)
    )
    # It may have stopped after executing to a checkpoint, and before what that gave was saved.
    outcome = keep_outcome(application, store, height) if genesis.is_checkpoint(height) and height > stable else None
    store.commit()
    *previous, epoch = [None, *store.epochs()]
    validators = genesis.validators if epoch is None else epoch.validators
    return Durable(
        head=head,
        deadline_ms=application.next_deadline_ms(),
        change_due=application.validators() != validators,
        outcome=outcome,
        epoch=epoch,
        previous=previous[-1] if previous else None,
        view=store.view(),
        checkpoint=checkpoint.proof if checkpoint else b"",
        history=store.history(),
        contents=store.contents(),
        certified=certified,
        votes=store.votes(),
        transfer=store.transfer(),
        mute=store.mute(),
    )


def keep_outcome(application: Application, store: Store, height: int) -> Outcome:
    """Saves the application's state, which is that after block `height`, for those who will need it."""
    data = application.snapshot()
    manifest = manifest_of(data)
    store.save_snapshot(height, manifest, data)
    return Outcome(root_of(manifest), application.validators())


def restore(application: Application, store: Store, effect: Restore) -> Restored:
    """First the store, then the application: a crash between the two is noticed and mended at the start."""
    snapshot = store.restore(effect.head, effect.epoch, effect.checkpoint, effect.history)
    store.commit()
    application.restore(snapshot)
    return Restored(effect.head.height, application.next_deadline_ms())


def read_blocks(store: Store, effect: ReadBlocks) -> BlocksRead:
    chosen = store.blocks_within(effect.first, effect.last, effect.max_bytes)
    return BlocksRead(effect.peer, tuple((stored.block, stored.certificate) for stored in chosen))


def read_chunk(store: Store, effect: ReadChunk) -> ChunkRead:
    manifest = store.snapshot_part(effect.height, MANIFEST) if effect.index == 0 else None
    data = store.snapshot_part(effect.height, effect.index)
    return ChunkRead(effect.peer, effect.height, effect.index, manifest or b"", data or b"")


def read_body(store: Store, effect: ReadBody) -> BodyRead:
    return BodyRead(effect.peer, effect.digest, store.body(effect.height, effect.digest))


def _committed(stored: StoredBlock) -> CommittedBlock:
    transactions = tuple(decode_block(stored.block).transactions)
    return CommittedBlock(stored.height, stored.time_ms, stored.digest, transactions, stored.certificate)
