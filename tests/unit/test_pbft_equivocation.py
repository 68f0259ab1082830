"""A primary that proposes two blocks at one height, with a vote of its own for each, cannot get both committed."""

from itertools import product

from pbft_cluster import FOUR, KEYS, Node, block_on, commit, node, proposal, settle

from tallystick.consensus.pbft.io import Send

A, B = block_on(FOUR), block_on(FOUR, transactions=[b"another"])
LIAR = KEYS[0]


def run(shown: tuple[bytes, ...]) -> list[Node]:
    """Three honest backups, each first shown one block, then the other; the liar commits to whatever it is asked."""
    backups = [node(FOUR, i) for i in (1, 2, 3)]
    waiting = []
    for backup, block in zip(backups, shown, strict=True):
        waiting += [(backup, effect) for effect in backup.receive(LIAR, proposal(FOUR, LIAR, block))]
        waiting += [(backup, e) for e in backup.receive(LIAR, proposal(FOUR, LIAR, A if block is B else B))]
        for lie in (block, A, B):
            backup.receive(LIAR, commit(FOUR, LIAR, FOUR.block_digest(lie)))
    settle(backups, waiting)
    for backup in backups:
        settle(backups, [(backup, effect) for effect in backup.tick(later_ms=1000)])
    return backups


def test_no_two_backups_deliver_different_blocks_whatever_each_was_shown() -> None:
    for shown in product((A, B), repeat=3):
        delivered = {backup.blocks[0][0] for backup in run(shown) if backup.blocks}
        assert len(delivered) <= 1


def test_with_two_backups_on_one_block_it_is_committed_and_the_third_fetches_it() -> None:
    backups = run((A, A, B))
    for _ in range(3):
        for backup in backups:
            settle(backups, [(backup, effect) for effect in backup.tick(later_ms=600)])
    assert [backup.blocks[0][0] for backup in backups] == [A, A, A]


def test_both_proposals_are_kept_as_evidence_against_the_primary_and_nobody_else() -> None:
    for backup in run((A, A, A)):
        assert {evidence.sender for evidence in backup.replica.evidence} == {LIAR.identity}
        assert backup.replica.rejections["conflicting_vote"] > 0


def test_evidence_is_bounded() -> None:
    backup = node(FOUR, 1)
    backup.receive(LIAR, proposal(FOUR, LIAR, A))
    for i in range(100):
        backup.receive(LIAR, proposal(FOUR, LIAR, block_on(FOUR, transactions=[b"%d" % i])))
    assert backup.replica.rejections["conflicting_vote"] == 100
    assert len(backup.replica.evidence) == 64
    assert not [effect for effect in backup.effects if isinstance(effect, Send)]
