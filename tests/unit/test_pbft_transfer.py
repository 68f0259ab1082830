"""Taking over a snapshot: every step of the way is checked, nobody can poison it, and none that comes late is lost."""

from dataclasses import dataclass

import pytest
from pbft_cluster import (
    FOUR,
    KEYS,
    Cluster,
    Node,
    block_at,
    cluster,
    commit,
    content_of,
    group_of,
    identities,
    index_of,
    last_proof,
    node,
    proposal,
    records,
    restarted,
    said,
    stable_proof,
)

from tallystick.canon.chunks import CHUNK_BYTES, chunk, manifest_of
from tallystick.canon.encoding import to_bytes
from tallystick.consensus.pbft import Group, Parameters
from tallystick.consensus.pbft.io import Effect, EpochRecord, Restore, SaveChunk, Send, StartTransfer, Submitted
from tallystick.consensus.pbft.messages import (
    Blocks,
    Checkpoints,
    Chunk,
    Fetch,
    FetchChunk,
    Status,
    seal_message,
)

DATA = to_bytes([[b"x" * 50_000 + bytes([i]) for i in range(20)], list(FOUR.validators)])
"""A snapshot of four chunks."""
CHUNKS = 4
TARGET = 20
"""More than four intervals of four heights ahead."""
GROUP = Group("test", FOUR.validators, 1, 12, 0, FOUR.parameters)
"""Of the target's epoch; the validators are those of genesis."""


def checkpoints(by: int, *proofs: bytes) -> bytes:
    return seal_message(KEYS[by], FOUR, Checkpoints(1, list(proofs)))


def proof(group: Group = GROUP, height: int = TARGET, data: bytes = DATA, **changes: list[int]) -> bytes:
    return stable_proof(group, content_of(group, height, data=data, **changes), [0, 1, 2])


def behind() -> Node:
    """A new validator 3 that knows the others, and has just been shown a checkpoint far ahead."""
    late = node(FOUR, 3)
    for i in (0, 1, 2):
        late.receive(i, seal_message(KEYS[i], FOUR, Status(1, 0, True, TARGET, TARGET)))
    assert late.refusals(0, checkpoints(0, proof())) == {}
    assert late.replica.transferring
    return late


@dataclass(frozen=True)
class Wanted:
    by: int
    """Of whom."""
    index: int


def wanted(effects: list[Effect]) -> list[Wanted]:
    sends = [e for e in effects if isinstance(e, Send)]
    return [Wanted(index_of(s.peer), m.index) for s in sends for m in said(FOUR, [s], FetchChunk)]


def given(by: int, index: int, data: bytes = DATA, *, manifest: bytes | None = None, height: int = TARGET) -> bytes:
    lead = manifest_of(data) if manifest is None and index == 0 else manifest or b""
    return seal_message(KEYS[by], FOUR, Chunk(1, height, index, lead, chunk(data, index)))


def complete(late: Node, effects: list[Effect], liars: tuple[int, ...] = ()) -> list[int]:
    """Answers whatever is asked for, until nothing is; returns who was asked."""
    queue, asked = wanted(effects), []
    while queue:
        want = queue.pop(0)
        asked.append(want.by)
        frame = given(want.by, want.index, b"poison" * 100_000 if want.by in liars else DATA)
        queue += wanted(late.receive(want.by, frame))
        queue += wanted(late.tick())
    return asked


def test_a_snapshot_comes_in_chunks_from_several_peers_and_the_chain_continues_from_it() -> None:
    late = behind()
    asked = complete(late, late.tick())
    assert set(asked) == {0, 1, 2}
    assert (late.replica.height, late.replica.stable, late.replica.epoch) == (TARGET, TARGET, 1)
    assert len(late.app.executed) == 20
    assert not late.replica.transferring
    (restore,) = [e for e in late.effects if isinstance(e, Restore)]
    assert (restore.head.height, restore.checkpoint.height, restore.checkpoint.ends) == (TARGET, TARGET, False)
    assert records(late.effects, EpochRecord) == [EpochRecord(1, 12, 0, FOUR.validators)]


def test_what_the_blocks_that_were_passed_over_made_void_is_waited_for_no_longer() -> None:
    late = behind()
    late.step(Submitted(b"void by now"))
    late.step(Submitted(b"still good"))
    complete(late, late.tick())
    assert late.replica.waiting == 1


def test_a_poisoned_chunk_or_manifest_is_refused_and_its_sender_asked_no_more() -> None:
    late = behind()
    asked = complete(late, late.tick(), liars=(1,))
    assert asked.count(1) == 1
    assert late.replica.height == TARGET
    assert late.app.snapshot() == DATA
    assert sum(late.replica.rejections.values()) == 1


@pytest.mark.parametrize(
    ("code", "index", "frame"),
    [
        ("bad_manifest", 0, given(0, 0, b"another snapshot")),
        ("bad_manifest", 0, given(0, 0, manifest=manifest_of(DATA)[:-1])),
        ("bad_manifest", 0, given(0, 0, manifest=manifest_of(DATA) + bytes(32))),
        ("bad_chunk", 0, given(0, 0, DATA[:-1] if len(DATA) < CHUNK_BYTES else bytes(9), manifest=manifest_of(DATA))),
        ("no_snapshot", 0, seal_message(KEYS[0], FOUR, Chunk(1, TARGET, 0, b"", b""))),
        ("unsolicited_chunk", 0, given(0, 3)),
        ("unsolicited_chunk", 0, given(0, 0, height=16)),
    ],
)
def test_what_does_not_hold_is_refused(code: str, index: int, frame: bytes) -> None:
    late = behind()
    late.tick()
    assert late.refusals(0, frame) == {code: 1}
    assert not [e for e in late.effects if isinstance(e, StartTransfer | SaveChunk)]


def test_a_chunk_that_nobody_asked_for_is_refused_when_no_transfer_is_under_way() -> None:
    assert node(FOUR, 3).refusals(0, given(0, 0)) == {"unsolicited_chunk": 1}


def test_a_silent_peer_costs_a_timeout_and_then_others_are_asked() -> None:
    late = behind()
    (first,) = wanted(late.tick())
    assert wanted(late.tick(999)) == []
    (second,) = wanted(late.tick(1))
    assert first.by != second.by
    assert first.index == second.index == 0


def test_an_answer_that_comes_after_its_timeout_still_counts() -> None:
    """On a line so slow that every chunk takes longer than our patience, a transfer must end all the same."""
    large = to_bytes([[b"x" * 50_000 + bytes([i]) for i in range(60)], list(FOUR.validators)])
    late = node(FOUR, 3)
    for i in (0, 1, 2):
        late.receive(i, seal_message(KEYS[i], FOUR, Status(1, 0, True, TARGET, TARGET)))
    late.receive(0, checkpoints(0, proof(data=large)))
    coming: list[Wanted] = []
    for _ in range(40):
        now, coming = coming, wanted(late.tick(16_000))  # each answer is a whole round too late
        for want in now:
            coming += wanted(late.receive(want.by, given(want.by, want.index, large)))
    assert late.replica.height == TARGET
    assert late.app.snapshot() == large


def test_peers_that_were_all_slow_are_asked_again() -> None:
    late = behind()
    asked = [w.by for _ in range(12) for w in [*wanted(late.tick(16_000))]]
    assert set(asked[:3]) == set(asked[3:6]) == {0, 1, 2}
    assert late.replica.transferring


def test_when_honest_peers_hold_it_no_more_it_looks_for_a_newer_one() -> None:
    """A silent one must not keep us with a snapshot that is gone."""
    late = behind()
    queue = wanted(late.tick())
    for _ in range(6):
        for want in queue:
            if want.by != 2:
                late.receive(want.by, seal_message(KEYS[want.by], FOUR, Chunk(1, TARGET, 0, b"", b"")))
        queue = wanted(late.tick(1000))
    assert not late.replica.transferring
    late.receive(0, checkpoints(0, proof(height=24)))
    assert late.replica.transferring


@pytest.mark.parametrize(("answering", "taken"), [(None, 24), (2, TARGET)])
def test_when_one_holds_it_no_more_a_newer_one_is_taken_if_the_others_are_silent(
    answering: int | None, taken: int
) -> None:
    """Seed 1070317: two who had dropped it were too few to tell, the other two had left the group."""
    late = behind()
    for _ in range(4):
        for want in wanted(late.tick(1000)):
            if want.by == 0:
                late.receive(0, seal_message(KEYS[0], FOUR, Chunk(1, TARGET, 0, b"", b"")))
            if want.by == answering:
                late.receive(want.by, given(want.by, want.index))
    late.receive(0, checkpoints(0, proof(height=24)))
    assert late.replica._state.transfer is not None
    assert late.replica._state.transfer.target.height == taken


def test_who_was_silent_is_known_when_a_later_target_is_found() -> None:
    late = behind()
    (first,) = wanted(late.tick())
    late.tick(500)
    late.tick(600)
    late.receive(0, checkpoints(0, proof(height=24)))
    assert {want.by for want in wanted(late.tick(1))} <= {0, 1, 2} - {first.by}
    assert FOUR.validators[first.by] in late.replica._state.asking.silent


def test_who_was_silent_is_known_when_a_target_is_given_up() -> None:
    """A chain that drops its snapshots quickly would else have us begin with the silent ones for each, for ever."""
    late = behind()
    queue = wanted(late.tick())
    while late.replica.transferring:
        for want in queue:
            if want.by != 2:
                late.receive(want.by, seal_message(KEYS[want.by], FOUR, Chunk(1, TARGET, 0, b"", b"")))
        queue = wanted(late.tick(1000))
    late.receive(0, checkpoints(0, proof(height=24)))
    first = wanted(late.tick(1))
    more = wanted(late.receive(first[0].by, given(first[0].by, 0, height=24)))
    assert {want.by for want in first + more} == {0, 1}


def test_an_empty_snapshot_is_one_too() -> None:
    late = node(FOUR, 3)
    late.receive(0, seal_message(KEYS[0], FOUR, Status(1, 0, True, TARGET, TARGET)))
    late.receive(0, checkpoints(0, proof(data=b"")))
    late.tick()
    late.app.restore = lambda snapshot: None  # type: ignore[method-assign]
    late.receive(0, given(0, 0, b""))
    late.tick()
    assert late.replica.height == TARGET


# ---- whom to believe


def test_a_target_is_believed_only_with_the_whole_chain_of_changes() -> None:
    new = Group("test", identities([4, 5, 6, 7]), 2, 16, 16, FOUR.parameters)
    change = stable_proof(GROUP, content_of(GROUP, 16, validators=[4, 5, 6, 7]), [0, 1, 2])
    target = stable_proof(new, content_of(new, 28, data=DATA), [4, 5, 6])
    late = node(FOUR, 3)
    assert late.refusals(0, checkpoints(0, target)) == {"not_a_validator": 1}
    assert late.refusals(0, checkpoints(0, target, change)) == {"not_a_validator": 1}
    assert not late.replica.transferring
    assert late.refusals(0, checkpoints(0, change, target)) == {}
    assert late.replica.transferring


@pytest.mark.parametrize(
    ("code", "bad"),
    [
        ("too_few_votes", stable_proof(GROUP, content_of(GROUP, TARGET), [0, 1])),
        ("duplicate_signer", stable_proof(GROUP, content_of(GROUP, TARGET), [0, 1, 1])),
        ("not_a_validator", stable_proof(GROUP, content_of(GROUP, TARGET), [4, 5, 6])),
        ("bad_signature", stable_proof(group_of(4, chain="another", epoch=1), content_of(GROUP, TARGET), [0, 1, 2])),
        ("gap_in_history", proof(Group("test", FOUR.validators, 9, 16, 16, FOUR.parameters))),
        ("malformed", b"\xc1"),
    ],
)
def test_a_checkpoint_that_no_quorum_of_known_validators_signed_moves_nothing(code: str, bad: bytes) -> None:
    late = node(FOUR, 3)
    assert late.refusals(0, checkpoints(0, bad)) == {code: 1}
    assert not late.replica.transferring


def test_a_short_gap_is_filled_with_blocks() -> None:
    late = node(FOUR, 3)
    late.receive(0, checkpoints(0, proof(height=16)))
    assert not late.replica.transferring


def test_who_finds_its_blocks_gone_everywhere_takes_a_snapshot_however_near() -> None:
    """Else a group whose others all started from snapshots could wait for its own last member for ever."""
    late = node(FOUR, 3)
    for i in (0, 1, 2):
        late.receive(i, seal_message(KEYS[i], FOUR, Status(0, 0, True, 9, 8)))
    late.tick(100)
    near = proof(FOUR, 8)
    for said_so in (1, 2):
        (peer,) = {e.peer for e in late.effects if isinstance(e, Send) and said(FOUR, [e], Fetch)}
        late.effects.clear()
        late.receive(index_of(peer), seal_message(KEYS[index_of(peer)], FOUR, Blocks(0, [])))
        late.receive(0, checkpoints(0, near))
        assert late.replica.transferring == (said_so == 2), "one may be a liar"


def test_an_old_checkpoint_is_no_way_to_keep_us_busy() -> None:
    late = node(FOUR, 3)
    for i in (0, 1, 2):
        late.receive(i, seal_message(KEYS[i], FOUR, Status(1, 0, True, 29, 24)))
    late.receive(2, checkpoints(2, proof(height=20)))  # proven, but nobody honest holds it any more
    late.receive(0, checkpoints(0, proof(height=24)))
    late.receive(2, checkpoints(2, proof(height=20)))
    (want,) = wanted(late.tick())
    late.receive(want.by, given(want.by, 0, height=24))
    assert [e for e in late.effects if isinstance(e, StartTransfer)]
    late.receive(0, checkpoints(0, proof(Group("test", FOUR.validators, 2, 24, 0, FOUR.parameters), 28)))
    late.tick()
    assert {m.height for m in said(FOUR, late.effects, FetchChunk)} == {24}, "what has begun is brought to its end"


# ---- stops and surprises


def test_a_transfer_goes_on_after_a_restart_with_the_chunks_that_are_there() -> None:
    late = behind()
    (first,) = wanted(late.tick())
    more = wanted(late.receive(first.by, given(first.by, 0)))
    late.receive(more[0].by, given(more[0].by, more[0].index))
    saved = {e.index for e in late.effects if isinstance(e, SaveChunk)}
    assert len(saved) == 2
    reborn = restarted(late)
    reborn.tick()
    assert reborn.replica.transferring, "also when no peer has been heard yet"
    for i in (0, 1, 2):
        reborn.receive(i, seal_message(KEYS[i], FOUR, Status(1, 0, True, TARGET, TARGET)))
    asked = wanted(reborn.tick())
    assert {want.index for want in asked} == set(range(CHUNKS)) - saved
    for want in asked:
        reborn.receive(want.by, given(want.by, want.index))
    reborn.tick()
    assert reborn.replica.height == TARGET
    assert reborn.app.snapshot() == DATA


def newcomer() -> Node:
    """Validator 3, which has heard from the others and knows of no checkpoint yet."""
    late = node(FOUR, 3)
    for i in (0, 1, 2):
        late.receive(i, seal_message(KEYS[i], FOUR, Status(1, 0, True, TARGET, TARGET)))
    return late


@pytest.mark.parametrize("heights", [(24, 20, 24), (24, 20), (20, 20)])
def test_checkpoints_out_of_order_lead_nowhere(heights: tuple[int, ...]) -> None:
    """All are proven. In the history they would keep this node from starting again."""
    late = newcomer()
    assert late.refusals(0, checkpoints(0, *[proof(height=h) for h in heights])) == {"not_in_order": 1}
    assert not late.replica.transferring


def test_checkpoints_without_a_change_of_validators_do_not_stay_in_the_history() -> None:
    late = newcomer()
    assert late.refusals(0, checkpoints(0, proof(height=16), proof(height=20))) == {}
    complete(late, late.tick())
    assert late.replica.height == TARGET
    (restore,) = [e for e in late.effects if isinstance(e, Restore)]
    assert restore.history == ()
    assert restarted(late).replica.height == TARGET


def test_one_lost_answer_is_not_held_against_a_peer_for_ever() -> None:
    """0 and 1 hold no snapshot; 2 holds each that there is for a second, and only its first answer is lost."""
    late, height, lost = behind(), TARGET, True
    for _ in range(20):
        if not late.replica.transferring:
            height += 4
            group = Group("test", FOUR.validators, (height - 1) // 12, 12 * ((height - 1) // 12), 0, FOUR.parameters)
            assert late.refusals(0, checkpoints(0, proof(group, height))) == {}
        queue = wanted(late.tick(1000))
        while queue:
            want = queue.pop(0)
            if want.by == 2 and lost:
                lost = False
                continue
            gone = seal_message(KEYS[want.by], FOUR, Chunk(1, height, want.index, b"", b""))
            queue += wanted(late.receive(want.by, given(2, want.index, height=height) if want.by == 2 else gone))
            queue += wanted(late.tick())
    assert late.replica.height > 0


def test_a_stop_between_the_last_chunk_and_the_restore() -> None:
    late = behind()
    complete(late, late.tick())
    cut = next(i for i, e in enumerate(late.effects) if isinstance(e, Restore))
    before, after = restarted(late, late.effects[:cut]), restarted(late, late.effects[: cut + 1])
    before.tick()
    assert before.replica.height == after.replica.height == TARGET
    assert (after.replica.epoch, after.replica.stable) == (1, TARGET)


def far_apart() -> Cluster:
    """Node 3 has seen nothing of 30 blocks."""
    four = cluster()
    four.passes = lambda source, target, message: 3 not in (source, target)
    four.order(*[b"%d" % i for i in range(30)])
    return four


def test_a_cluster_brings_back_one_that_is_far_behind_and_it_votes_again() -> None:
    four = far_apart()
    for i in (0, 1, 2):  # and blocks are pruned
        four[i].disk.blocks = {h: pair for h, pair in four[i].disk.blocks.items() if h > 20}
    four.passes = lambda source, target, message: True
    four.run(3000)
    assert four.heights() == [30, 30, 30, 30]
    assert four[3].app.executed == four[0].app.executed
    four.crash(0)
    four.submit(1, b"with the vote of 3")
    four.run(4000)
    assert {four[i].replica.height for i in (1, 2, 3)} == {31}


def test_agreement_that_overtakes_a_transfer_ends_it_and_nothing_goes_back() -> None:
    """Node 3 was stopped for long; news of a far checkpoint comes before the backlog of its channels."""
    four = far_apart()
    late = four[3]
    target = four[0].replica.stable
    late.receive(0, checkpoints(0, last_proof(four[0])))
    assert late.replica.transferring
    # The backlog, in order; everything that it says now is too late.
    backlog = [
        (i, e.frame)
        for i in (0, 1, 2)
        for e in four[i].effects
        if hasattr(e, "frame") and not said(FOUR, [e], Status) and not said(FOUR, [e], Checkpoints)
    ]
    while late.replica.height <= target:
        before = late.replica.height
        for source, frame in backlog:
            late.receive(source, frame)
        if late.replica.height == before:
            break
    assert late.replica.height > target, "the backlog alone brings it past the target"
    for index in range(8):
        late.tick(1000)
        data = four[0].disk.snapshots[target]
        late.receive(0, given(0, index, data, height=target))
    assert not late.replica.transferring
    assert not [e for e in late.effects if isinstance(e, Restore)]
    assert late.app.executed == four[0].app.executed[: len(late.app.executed)]


def test_what_was_held_for_the_epoch_is_heard_after_a_transfer() -> None:
    """Whether a chunk ends it or, after a restart with all of them, a tick."""
    early = proposal(GROUP, 1, block_at(21, by=1), height=21)
    late = behind()
    late.receive(1, early)
    assert late.replica.load["early"] == 1
    complete(late, late.tick())
    assert (late.replica.load["early"], late.replica.load["instances"]) == (0, 1)
    cut = next(i for i, e in enumerate(late.effects) if isinstance(e, Restore))
    reborn = restarted(late, late.effects[:cut])
    reborn.receive(1, early)
    reborn.tick()
    assert (reborn.replica.height, reborn.replica.load["instances"]) == (TARGET, 1)


def test_after_a_transfer_no_empty_block_is_due_because_of_a_change_that_is_over() -> None:
    """Cut off while a change of validators waited for its checkpoint, and restored long after it."""
    group = group_of(4, parameters=Parameters(4, 64, 3))
    late = node(group, 3)
    block = block_at(1, b"validators 0 1 2 3 4")
    late.receive(0, proposal(group, 0, block))
    for i in (0, 1, 2):
        late.receive(i, commit(group, i, group.block_digest(block)))
    assert late.replica.height == 1
    for i in (0, 1, 2):
        late.receive(i, seal_message(KEYS[i], FOUR, Status(0, 0, True, 24, 24)))
    late.receive(0, checkpoints(0, proof(group, 24)))
    queue = wanted(late.tick())
    while queue:
        want = queue.pop()
        queue += wanted(late.receive(want.by, given(want.by, want.index, height=24)))
    assert (late.replica.height, late.replica.epoch) == (24, 0)
    for _ in range(5):
        late.tick(10_000)
    assert (late.replica.view, late.replica.active) == (0, True), "it waits for no block"


def test_it_serves_chunks_and_says_so_if_it_has_none() -> None:
    four = cluster()
    four.order(b"1", b"2", b"3", b"4")
    ask = seal_message(KEYS[2], FOUR, FetchChunk(0, 4, 0))
    (served,) = said(FOUR, four[1].receive(2, ask), Chunk)
    assert (served.manifest, served.data) == (manifest_of(four[1].app.snapshot()), four[1].app.snapshot())
    (served,) = said(FOUR, four[1].receive(2, seal_message(KEYS[2], FOUR, FetchChunk(0, 8, 0))), Chunk)
    assert (served.manifest, served.data) == (b"", b"")
