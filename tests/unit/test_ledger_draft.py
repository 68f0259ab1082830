"""A draft returns to any mark, whatever was done since, and what it ends with is what was left standing."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ledger_network import Network, check_invariants, key, name
from tallystick.ledger.draft import Draft
from tallystick.ledger.events import AnchorSet
from tallystick.ledger.state import EMPTY, Account, State

PEOPLE = [key(who).identity for who in ("client", "ann", "zoe")]

moves = st.tuples(st.just("move"), st.sampled_from(PEOPLE), st.sampled_from(PEOPLE), st.integers(0, 3))
burns = st.tuples(st.just("burn"), st.sampled_from(PEOPLE[:2]), st.none(), st.integers(0, 3))
marks = st.tuples(st.sampled_from(["mark", "back"]), st.none(), st.none(), st.none())
View = tuple[State, dict[str, Account | None], tuple[object, ...]]


def view(draft: Draft) -> View:
    return draft.state, {who: draft.known(who) for who in PEOPLE}, tuple(draft.events)


@given(st.lists(moves | burns | marks, max_size=30))
def test_rolling_back_undoes_everything_since_the_mark_and_nothing_before(
    steps: list[tuple[str, str, str, int]],
) -> None:
    before = Network().state
    draft = Draft(before, b"")
    stack = [(draft.mark(), view(draft))]
    for kind, one, two, amount in steps:
        match kind:
            case "move" if draft.account(one).balance >= amount:
                draft.change(one, balance=-amount)
                draft.change(two, balance=amount)
                draft.emit(AnchorSet(one, two))
            case "burn" if draft.account(one).balance >= amount:
                draft.burn(one, amount)
            case "mark":
                stack.append((draft.mark(), view(draft)))
            case "back" if len(stack) > 1:
                mark, then = stack.pop()
                draft.roll_back(mark)
                assert view(draft) == then
    last, after = view(draft), draft.finish()
    assert {who: after.accounts.get(who) for who in PEOPLE} == last[1]
    assert after.events == len(last[2]) and after.burned == last[0].burned
    assert set(after.accounts) - set(before.accounts) <= {PEOPLE[2]}
    check_invariants(after)
    draft.roll_back(stack[0][0])
    assert view(draft) == stack[0][1] and draft.finish() == before


def test_a_draft_changes_no_state_that_it_was_given() -> None:
    before = Network().state
    draft = Draft(before, b"")
    draft.change(PEOPLE[1], balance=-5)
    draft.change(name("new"), balance=5)
    assert before == Network().state and draft.account(name("other")) is EMPTY
    assert draft.finish() == replace(
        before,
        accounts=before.accounts.set(PEOPLE[1], replace(before.accounts[PEOPLE[1]], balance=9_995)).set(
            name("new"), Account(balance=5)
        ),
    )
