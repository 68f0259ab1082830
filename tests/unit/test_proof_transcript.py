"""Links, commitments and segments: what each of them binds."""

from dataclasses import replace

import msgspec
import pytest
import torch

from proof_samples import ATTACKER, PROVER, sample
from tallystick.canon.encoding import to_json
from tallystick.canon.sealed import seal
from tallystick.errors import Refused
from tallystick.proof.commitment import DOMAIN, Commitment, Parent, open_commitment, sign_commitment
from tallystick.proof.recording import Scribe, update_square
from tallystick.proof.segments import Segment, decode_segment, encode_segment
from tallystick.proof.transcript import Entry, batch_root, extend, start

ENTRY = Entry(7, "1" * 64, -5, "2" * 64, "3" * 64)
SEGMENT = Segment(3, "1" * 64, 5, "2" * 64, "3" * 64, 6, "1.5e-03", "4" * 64)


@pytest.mark.parametrize(
    "change", [{"step": 8}, {"batch": "9" * 64}, {"loss": 5}, {"root": "9" * 64}, {"total": "9" * 64}, {"root": ""}]
)
def test_a_link_binds_each_part_of_its_entry(change: dict[str, object]) -> None:
    link = bytes(32)
    assert extend(link, ENTRY) != extend(link, replace(ENTRY, **change))  # type: ignore[arg-type]


def test_a_link_binds_all_links_before_it() -> None:
    assert extend(bytes(32), ENTRY) != extend(bytes([1] * 32), ENTRY)


def test_the_first_link_binds_commitment_and_signer() -> None:
    commitment = sample().commitment()
    links = {
        start(sign_commitment(key, commitment_with_attempt))
        for key in (PROVER, ATTACKER)
        for commitment_with_attempt in (commitment, msgspec.structs.replace(commitment, attempt=2))
    }
    assert len(links) == 4


def test_a_batch_is_named_by_the_records_and_their_order() -> None:
    indices = torch.arange(4)
    names = {batch_root("1" * 64, indices), batch_root("2" * 64, indices), batch_root("1" * 64, indices.flip(0))}
    assert len(names) == 3


def test_a_commitment_round_trips() -> None:
    commitment = sample().commitment(attempt=3, parent=Parent("1" * 64, "2" * 64))
    assert open_commitment(sign_commitment(PROVER, commitment)) == (PROVER.identity, commitment)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"attempt": 0}, "malformed"),
        ({"steps": 0}, "malformed"),
        ({"steps": 10**7 + 1}, "malformed"),
        ({"parent": {"signature": "x", "root": "2" * 64}}, "malformed"),
        ({"parent": {"signature": "1" * 64}}, "malformed"),
        ({"data": "A" * 64}, "malformed"),
        ({"network": "n" * 129}, "malformed"),
        ({"arithmetic": "exact-v2"}, "malformed"),
        ({"format": "tallystick-proof-v1"}, "malformed"),
        ({"segment": 9}, "bad_commitment"),
        ({"roots_every": 4}, "bad_commitment"),
    ],
)
def test_a_signed_commitment_is_read_strictly(change: dict[str, object], code: str) -> None:
    odd = msgspec.structs.replace(sample().commitment(), **change)
    with pytest.raises(Refused) as refused:
        open_commitment(seal(PROVER, DOMAIN, to_json(odd)))
    assert refused.value.code == code


def test_a_commitment_for_another_purpose_is_refused() -> None:
    with pytest.raises(Refused, match="bad_signature"):
        open_commitment(seal(PROVER, "tallystick/proof", to_json(sample().commitment())))


@pytest.mark.parametrize(
    ("steps", "segment", "bounds"),
    [(8, 3, [(0, 3), (3, 6), (6, 8)]), (6, 3, [(0, 3), (3, 6)]), (1, 1, [(0, 1)]), (5, 5, [(0, 5)])],
)
def test_segments_cover_every_step_once(steps: int, segment: int, bounds: list[tuple[int, int]]) -> None:
    base = sample().commitment()
    commitment = msgspec.structs.replace(base, steps=steps, segment=segment, roots_every=1)
    assert [commitment.bounds(index) for index in range(commitment.segments)] == bounds
    assert [step + 1 for step in range(steps) if commitment.ends_segment(step)] == [last for _, last in bounds]


def test_roots_are_as_often_as_committed_and_at_every_end() -> None:
    base = sample().commitment()

    def rooted(steps: int, segment: int, every: int) -> list[int]:
        commitment = msgspec.structs.replace(base, steps=steps, segment=segment, roots_every=every)
        return [step for step in range(steps) if commitment.rooted(step)]

    assert rooted(8, 3, 3) == [2, 5, 7]
    assert rooted(8, 3, 1) == list(range(8))
    assert rooted(8, 5, 2) == [1, 3, 4, 6, 7]


def test_a_segment_round_trips() -> None:
    assert decode_segment(encode_segment(SEGMENT)) == SEGMENT


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (encode_segment(SEGMENT)[:-1], "malformed"),
        (encode_segment(SEGMENT).replace(b'"step"', b'"stop"'), "malformed"),
        (encode_segment(SEGMENT).replace(b"1.5e-03", b"0x1"), "malformed"),
        (encode_segment(SEGMENT).replace(b'"loss":5', b'"loss": 5'), "not_canonical"),
        (encode_segment(SEGMENT).replace(b"}", b',"more":1}'), "malformed"),
        (b"x" * 10_000 + b"\n", "too_large"),
    ],
)
def test_a_segment_is_read_strictly(line: bytes, code: str) -> None:
    with pytest.raises(Refused) as refused:
        decode_segment(line)
    assert refused.value.code == code


def test_the_update_is_the_squared_way_of_the_parameters_alone() -> None:
    before = {"parameter/a": torch.tensor([1.0, 2.0]), "slot/a": torch.zeros(2), "parameter/b": torch.zeros(0)}
    after = {"parameter/a": torch.tensor([4.0, -2.0]), "slot/a": torch.ones(2), "parameter/b": torch.zeros(0)}
    assert update_square(before, after) == "2.50000000e+01"
    assert update_square(before, {**after, "parameter/a": torch.tensor([1e30, 0.0])}) is None


def test_a_scribe_links_what_was_rooted_and_what_was_not() -> None:
    run = sample()
    commitment: Commitment = run.commitment(roots_every=1)
    sparse, dense = (Scribe(run.training, c, bytes(32), run.initial, 0) for c in (run.commitment(), commitment))
    assert sparse.pass_over(5) != dense.pass_over(6)
    assert (sparse.step, dense.step) == (1, 1)
