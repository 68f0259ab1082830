"""What a training run is: program, data, initial state and schedule, as one canonical document named by its hash."""

from typing import Annotated, Final, Literal

import msgspec

from tallystick.canon.encoding import from_json, to_json
from tallystick.canon.hashing import is_name
from tallystick.errors import Refused
from tallystick.program.graph import MAX_ELEMENTS, TensorSpec
from tallystick.program.schedule import Rate

MAX_SPEC_BYTES: Final = 2**20
MAX_RECORDS: Final = 2**24
"""Records in a data set. Drawing their order takes about 100 bytes for each, however small the records are."""


class DataSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Records: the first dimension of every tensor counts them, and names and order are the program's batch's."""

    blob: str
    root: str
    tensors: Annotated[list[TensorSpec], msgspec.Meta(min_length=2, max_length=16)]

    @property
    def records(self) -> int:
        return self.tensors[0].shape[0]


class TrainingSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["tallystick-training-v1"]
    program: str
    """Name of the step program."""
    initial_state: str
    """Blob with the state before step 0."""
    initial_root: str
    train: DataSet
    test: DataSet | None
    """Records that only measure the result."""
    steps: Annotated[int, msgspec.Meta(ge=1, le=10**7)]
    micro_batches: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    """Micro-batches in each step; their size is the program's."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    """Keys the order of the training records."""
    learning_rate: Rate


def encode_spec(spec: TrainingSpec) -> bytes:
    return to_json(spec)


def decode_spec(data: bytes) -> TrainingSpec:
    """Reads a training specification from untrusted bytes.

    Raises:
        Refused: `too_large`, `malformed`, `not_canonical` or `bad_spec`.
    """
    spec = from_json(data, TrainingSpec, limit=MAX_SPEC_BYTES, what="training specification")
    sets = [spec.train] + ([spec.test] if spec.test else [])
    names = [spec.program, spec.initial_state, spec.initial_root, *(n for s in sets for n in (s.blob, s.root))]
    if not all(map(is_name, names)):
        raise Refused("bad_spec", "training specification: a blob or root is not 64 lower-case hex characters")
    for data_set in sets:
        tensors = data_set.tensors
        if any(not t.shape or t.shape[0] != tensors[0].shape[0] for t in tensors) or tensors[0].shape[0] == 0:
            raise Refused("bad_spec", "training specification: tensors of a data set need one number of records, not 0")
        if any(t.extent > MAX_ELEMENTS for t in tensors) or len({t.name for t in tensors}) != len(tensors):
            raise Refused("bad_spec", "training specification: a data set has too large a tensor, or two of one name")
    if any(data_set.records > MAX_RECORDS for data_set in sets):
        raise Refused("too_large", f"training specification: a data set has more than {MAX_RECORDS} records")
    return spec
