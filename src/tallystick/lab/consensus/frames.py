"""Frames as the lab looks at them: without asking whether they are valid, and sealed anew when one is changed."""

from typing import TYPE_CHECKING, Any

import msgspec

from tallystick.canon.sealed import HEADER_BYTES, seal
from tallystick.canon.votes import vote_domain

if TYPE_CHECKING:
    from tallystick.lab.consensus.node import Node


def tag_of(frame: bytes) -> str:
    """The kind of message in a frame, without looking at the rest."""
    start = HEADER_BYTES + 1
    if len(frame) <= start:
        return ""
    length = frame[start] & 0x1F
    return frame[start + 1 : start + 1 + length].decode("ascii", "replace")


def is_view_change(frame: bytes) -> bool:
    """Whether `tag_of` says so, for those who look at every frame."""
    return frame.startswith(b"view_change", HEADER_BYTES + 2)


def resealed(node: "Node", payload: Any) -> bytes:
    return seal(node.key, vote_domain(node.cluster.genesis.chain), msgspec.msgpack.encode(payload))


def opened(frame: bytes) -> list[Any]:
    fields: list[Any] = msgspec.msgpack.decode(frame[HEADER_BYTES:])
    return fields
