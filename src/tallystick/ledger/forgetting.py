"""Which tasks that are over stay in the state, and for how long.

Opening a task costs nothing, since its escrow comes back, and the whole state goes into a snapshot at each checkpoint:
who left closed tasks there without end could stop all validators. What is forgotten here was told as events, and is in
the blocks.
"""

from typing import Final

from msgspec.structs import replace

from tallystick.ledger.draft import Draft

KEPT_TASKS: Final = 10_000
"""Tasks that are over and had a finished step."""
KEPT_STEPS: Final = 500_000
"""Finished steps of all of them together. It is no less than one task may have, so the last to end always stays until
another does."""


def forget_ended(draft: Draft) -> None:
    """Done at the end of each block in which a task has ended, so that no rule finds one gone halfway.

    Without a finished step nobody was paid, no validator computed anything, and there is no result that anyone could
    want to fetch: such a task goes at once. The others go in the order in which they ended, once there are too many.
    A step takes the attestations of a quorum, so nobody can push a result out without honest validators' work.
    """
    ended = []
    for task in draft.state.ended_tasks:
        if draft.task(task).history:
            ended.append(task)
        else:
            draft.drop_task(task)
    steps = sum(draft.task(task).step for task in ended)
    over = 0
    while len(ended) - over > KEPT_TASKS or steps > KEPT_STEPS:
        steps -= draft.task(ended[over]).step
        draft.drop_task(ended[over])
        over += 1
    draft.state = replace(draft.state, ended_tasks=tuple(ended[over:]))
