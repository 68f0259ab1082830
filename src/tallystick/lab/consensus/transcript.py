"""What is said and written, for people: frames and records of a story, shortened."""

from typing import TYPE_CHECKING, Any

import msgspec

from tallystick.canon.sealed import HEADER_BYTES
from tallystick.consensus.pbft.io import (
    CheckpointRecord,
    ContentRecord,
    EpochRecord,
    Record,
    ViewRecord,
    VoteRecord,
)
from tallystick.lab.consensus.frames import opened

if TYPE_CHECKING:
    from tallystick.lab.consensus.cluster import Cluster


def describe_frame(cluster: "Cluster", frame: bytes) -> str:
    """`commit epoch 0 [1, 17, 'a3f2c1']`: the kind, the epoch, and the rest in order."""
    try:
        tag, epoch, *rest = opened(frame)
    except (msgspec.DecodeError, ValueError, TypeError):
        return f"{len(frame)} bytes of nothing"
    return f"{tag} epoch {epoch} {_short(rest)}"


def _short(value: Any) -> str:
    if isinstance(value, list):
        inner = [_short(item) for item in value[:8]]
        return "[" + ", ".join(inner) + (f", and {len(value) - 8} more]" if len(value) > 8 else "]")
    if isinstance(value, bytes):
        return _short_bytes(value)
    return str(value)


def _short_bytes(value: bytes) -> str:
    if len(value) == 32 or not value:
        return value.hex()[:6] or "-"
    if len(value) > HEADER_BYTES:
        try:
            tag, *rest = msgspec.msgpack.decode(value[HEADER_BYTES:])
            return f"{value[:3].hex()}:{tag}{_short(rest[:4])}"
        except (msgspec.DecodeError, ValueError, TypeError):
            pass
    return f"<{len(value)} bytes>"


def describe_record(record: Record) -> str:
    match record:
        case VoteRecord():
            return f"{record.phase} {record.height} in view {record.view}: {record.digest.hex()[:6]}"
        case ViewRecord():
            return f"view {record.view}" + (", its view change" if record.view_change else "")
        case CheckpointRecord():
            return f"stable checkpoint {record.height}" + (", which ends a rule" if record.ends else "")
        case EpochRecord():
            return f"epoch {record.epoch} after {record.start}, {len(record.validators)} validators"
        case ContentRecord():
            return f"what came out at {record.height}"
        case _:
            return f"mute until epoch {record.until or '?'}"
