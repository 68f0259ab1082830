"""Strict codecs: structs to bytes, and bytes back to structs or a refusal.

Documents that people read and that have a name of their own (programs, manifests, genesis) are canonical JSON;
messages are MessagePack. Both go through msgspec, which checks types while it decodes, so there is one place where
bytes become values. Structs that travel set `forbid_unknown_fields=True`.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import msgspec

from tallystick.errors import Refused

T = TypeVar("T")


def to_json(value: Any) -> bytes:
    """Canonical JSON: no white space, fields in declared order, mapping keys sorted. Floats do not belong in it."""
    return msgspec.json.encode(value, order="deterministic")


def from_json(data: bytes, kind: Callable[..., T], *, limit: int, what: str) -> T:
    """Decodes canonical JSON, and only that.

    A second spelling of the same value (white space, repeated keys, other number forms) is refused, because one
    value must have one name.

    Args:
        limit: largest size admitted, bytes.
        what: how messages name the thing, such as "program".

    Raises:
        Refused: `too_large`, `malformed` or `not_canonical`.
    """
    value: T = _decode(_json_decoder(kind), data, limit, what)
    if to_json(value) != data:
        raise Refused("not_canonical", f"{what}: not in canonical form; re-encode it with tallystick")
    return value


def to_bytes(value: Any) -> bytes:
    """MessagePack with deterministic order."""
    return msgspec.msgpack.encode(value, order="deterministic")


def from_bytes(data: bytes, kind: Any, *, limit: int, what: str) -> Any:
    """Decodes MessagePack into `kind` (a struct, or a union of tagged structs; or a decoder for one, made before).

    Raises:
        Refused: `too_large` or `malformed`.
    """
    decoder = kind if type(kind) is msgspec.msgpack.Decoder else _msgpack_decoder(kind)
    return _decode(decoder, data, limit, what)


def _decode(decoder: Any, data: bytes, limit: int, what: str) -> Any:
    if len(data) > limit:
        raise Refused("too_large", f"{what}: {len(data)} bytes, at most {limit} are admitted")
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise Refused("malformed", f"{what}: {error}") from None


@functools.cache
def _json_decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


@functools.cache
def _msgpack_decoder(kind: Hashable) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)
