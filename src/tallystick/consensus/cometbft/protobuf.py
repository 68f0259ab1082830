"""The part of the protobuf wire format that ABCI uses, as a codec driven by tables.

A message is a frozen dataclass whose fields say where and how they are written:

    @dataclass(frozen=True)
    class EventAttribute:
        key: str = string(1)
        index: bool = boolean(3)

    encode(EventAttribute("a", True)) == bytes.fromhex("0a 01 61  18 01")

Encoding is deterministic: fields in the order of their numbers, defaults left out, repeated numbers packed. Decoding
follows https://protobuf.dev/programming-guides/encoding but is stricter where a well-behaved writer never goes: a
number out of its type's range, a field that is there twice without being repeated, text that is not UTF-8, a known
field in another wire type, and groups are refused. Unknown fields are skipped. Nothing is allocated that the input
does not hold, and one message decodes to at most MAX_ELEMENTS objects: an empty submessage takes two bytes on the wire
and a hundred times that in memory.
"""

import dataclasses
import enum
import functools
from typing import Any, Final, TypeVar

from tallystick.errors import Refused

MAX_ELEMENTS: Final = 2**17
"""Most entries of repeated fields and submessages in one decoded message, at all depths together."""
MAX_FIELD_NUMBER: Final = 2**29 - 1
MAX_VARINT_BYTES: Final = 10
VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
"""Wire types. 3 and 4 are groups, which nothing uses any more."""

M = TypeVar("M")


class Kind(enum.Enum):
    """How one value of a field is written; for numbers also what it may be."""

    BOOL = (0, 1)
    INT32 = (-(2**31), 2**31 - 1)
    INT64 = (-(2**63), 2**63 - 1)
    UINT32 = (0, 2**32 - 1)
    UINT64 = (0, 2**64 - 1)
    BYTES = "bytes"
    STRING = "string"
    MESSAGE = "message"

    @property
    def is_number(self) -> bool:
        return isinstance(self.value, tuple)


@dataclasses.dataclass(frozen=True)
class Field:
    """Where and how one field of a message is written."""

    name: str
    number: int
    kind: Kind
    repeated: bool = False
    present: bool = False
    """Whether absence (None) is told from the default: submessages, and members of a oneof."""
    message: type[Any] | None = None
    """Of which type a submessage is."""

    @property
    def wire_type(self) -> int:
        return VARINT if self.kind.is_number and not self.repeated else DELIMITED


# ---- declaring fields


def boolean(number: int) -> Any:
    return _declare(False, number, Kind.BOOL)


def int32(number: int) -> Any:
    """Also for enums: values that this version does not know are kept."""
    return _declare(0, number, Kind.INT32)


def int64(number: int) -> Any:
    return _declare(0, number, Kind.INT64)


def uint32(number: int) -> Any:
    return _declare(0, number, Kind.UINT32)


def uint64(number: int) -> Any:
    return _declare(0, number, Kind.UINT64)


def string(number: int) -> Any:
    return _declare("", number, Kind.STRING)


def bytes_(number: int) -> Any:
    return _declare(b"", number, Kind.BYTES)


def one_of_bytes(number: int) -> Any:
    """A member of a oneof: None where another member is meant."""
    return _declare(None, number, Kind.BYTES, present=True)


def message(number: int, kind: type[Any]) -> Any:
    return _declare(None, number, Kind.MESSAGE, present=True, message=kind)


def messages(number: int, kind: type[Any]) -> Any:
    return _declare((), number, Kind.MESSAGE, repeated=True, message=kind)


def repeated(number: int, kind: Kind) -> Any:
    return _declare((), number, kind, repeated=True)


def _declare(default: Any, number: int, kind: Kind, **more: Any) -> Any:
    return dataclasses.field(default=default, metadata={"wire": (number, kind, more)})


@functools.cache
def fields_of(kind: Any) -> tuple[Field, ...]:
    """A message's fields by number."""
    declared = [(entry.name, *entry.metadata["wire"]) for entry in dataclasses.fields(kind)]
    fields = [Field(name, number, wire, **more) for name, number, wire, more in declared]
    return tuple(sorted(fields, key=lambda field: field.number))


@functools.cache
def _by_number(kind: Any) -> dict[int, Field]:
    return {field.number: field for field in fields_of(kind)}


# ---- encoding


def encode(value: Any) -> bytes:
    """The bytes of a message."""
    kind: Any = type(value)
    return b"".join(_field(field, getattr(value, field.name)) for field in fields_of(kind))


def delimited(number: int, content: bytes) -> bytes:
    """Field `number` with `content` as submessage, text or bytes."""
    return varint(number << 3 | DELIMITED) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(field: Field, content: Any) -> bytes:
    if content is None if field.present else not content:
        return b""
    if field.repeated and not field.kind.is_number:
        return b"".join(delimited(field.number, _content(field, entry)) for entry in content)
    if field.repeated:
        return delimited(field.number, b"".join(_number(field, entry) for entry in content))
    if field.kind.is_number:
        return varint(field.number << 3 | VARINT) + _number(field, content)
    return delimited(field.number, _content(field, content))


def _number(field: Field, value: int) -> bytes:
    low, high = field.kind.value
    if not low <= value <= high:
        raise ValueError(f"{field.name}: {value} is not between {low} and {high}")
    return varint(value & (2**64 - 1))  # negative numbers of any width are written in 64 bits


def _content(field: Field, value: Any) -> bytes:
    if field.kind is Kind.MESSAGE:
        return encode(value)
    return value.encode() if field.kind is Kind.STRING else bytes(value)


# ---- decoding


def decode(kind: type[M], data: bytes) -> M:
    """Reads a message of type `kind`.

    Raises:
        Refused: `malformed` or `too_many_elements`.
    """
    value: M = _Reader(data).message(kind, 0, len(data))
    return value


def split_field(data: bytes) -> tuple[int, bytes]:
    """The number and content of the one delimited field that `data` consists of, as of a message that is a oneof.

    Raises:
        Refused: `malformed`: it is not exactly one.
    """
    reader = _Reader(data)
    number, wire_type, position = reader.tag(0, len(data))
    if wire_type != DELIMITED:
        raise Refused("malformed", f"field {number}: wire type {wire_type} where a message is expected")
    start, end = reader.extent(position, len(data))
    if end != len(data):
        raise Refused("malformed", f"{len(data) - end} bytes after field {number}, which should be alone")
    return number, data[start:end]


class _Reader:
    """Reads one encoded message. Positions are offsets in it; nothing is copied but the values."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._room = MAX_ELEMENTS

    def message(self, kind: Any, position: int, end: int) -> Any:
        table, found = _by_number(kind), dict[str, Any]()
        while position < end:
            number, wire_type, position = self.tag(position, end)
            field = table.get(number)
            if field is None:
                position = self._skip(wire_type, position, end)
            elif field.repeated:
                entries = found.setdefault(field.name, [])
                position = self._entries(field, wire_type, position, end, entries)
            elif field.name in found:
                raise Refused("malformed", f"{kind.__name__}.{field.name}: there twice")
            else:
                self._expect(field, wire_type, field.wire_type)
                found[field.name], position = self._value(field, position, end)
        lists = {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
        return kind(**found | lists)

    def tag(self, position: int, end: int) -> tuple[int, int, int]:
        """Number and wire type of the field at `position`, and where its content starts."""
        value, position = self._varint(position, end)
        if not 1 <= value >> 3 <= MAX_FIELD_NUMBER:
            raise Refused("malformed", f"field number {value >> 3}: out of range")
        return value >> 3, value & 7, position

    def extent(self, position: int, end: int) -> tuple[int, int]:
        """Start and end of the content of a delimited field."""
        length, start = self._varint(position, end)
        if length > end - start:
            raise Refused("malformed", f"a field of {length} bytes where {end - start} are left")
        return start, start + length

    def _entries(self, field: Field, wire_type: int, position: int, end: int, entries: list[Any]) -> int:
        """Reads one entry of a repeated field, or several that are packed."""
        if field.kind.is_number and wire_type == DELIMITED:
            position, end = self.extent(position, end)
            while position < end:
                self._count()
                value, position = self._value(field, position, end)
                entries.append(value)
            return position
        self._expect(field, wire_type, VARINT if field.kind.is_number else DELIMITED)
        self._count()
        value, position = self._value(field, position, end)
        entries.append(value)
        return position

    def _value(self, field: Field, position: int, end: int) -> tuple[Any, int]:
        if field.kind.is_number:
            value, position = self._varint(position, end)
            return _in_range(field, value), position
        start, stop = self.extent(position, end)
        if field.message is not None:
            self._count()
            return self.message(field.message, start, stop), stop
        content = self._data[start:stop]
        return _text(field, content) if field.kind is Kind.STRING else content, stop

    def _skip(self, wire_type: int, position: int, end: int) -> int:
        match wire_type:
            case 0:
                return self._varint(position, end)[1]
            case 2:
                return self.extent(position, end)[1]
            case 1 | 5:
                position += 8 if wire_type == FIXED64 else 4
                if position > end:
                    raise Refused("malformed", "a fixed-size field ends after its message")
                return position
        raise Refused("malformed", f"wire type {wire_type}: not admitted")

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = 0
        for offset in range(min(MAX_VARINT_BYTES, end - position)):
            byte = self._data[position + offset]
            value |= (byte & 0x7F) << 7 * offset
            if byte < 0x80:
                if value >= 2**64:
                    break
                return value, position + offset + 1
        raise Refused("malformed", "a number that does not end, or is over 64 bits long")

    def _count(self) -> None:
        self._room -= 1
        if self._room < 0:
            raise Refused("too_many_elements", f"a message of more than {MAX_ELEMENTS} elements")

    def _expect(self, field: Field, wire_type: int, expected: int) -> None:
        if wire_type != expected:
            raise Refused("malformed", f"{field.name}: wire type {wire_type}, expected {expected}")


def _in_range(field: Field, value: int) -> int | bool:
    low, high = field.kind.value
    if low < 0 and value >= 2**63:
        value -= 2**64
    if not low <= value <= high:
        raise Refused("malformed", f"{field.name}: {value} is not between {low} and {high}")
    return bool(value) if field.kind is Kind.BOOL else value


def _text(field: Field, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise Refused("malformed", f"{field.name}: not UTF-8") from None
