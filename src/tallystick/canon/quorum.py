"""How many votes decide, among n voters of whom some may lie.

With n voters at most f = floor((n - 1) / 3) faulty ones can be tolerated at all (Pease, Shostak, Lamport 1980). A
quorum is the smallest count Q for which any two quorums share at least f + 1 voters, so at least one honest one:
2Q - n >= f + 1. Shorter rules found in the wild, 2f + 1 and 2 * floor(n / 3) + 1, agree with it for n = 3f + 1 but not
for every n: of five voters, two sets of three can share one voter alone, and that one may be the faulty one.

    n    4   5   7   8  10  16  31  50
    f    1   1   2   2   3   5  10  16
    Q    3   4   5   6   7  11  21  34
"""


def faults(voters: int) -> int:
    """How many faulty voters are tolerated; f + 1 equal voices include an honest one."""
    if voters < 1:
        raise ValueError(f"a vote needs at least one voter, got {voters}")
    return (voters - 1) // 3


def quorum(voters: int) -> int:
    """The smallest count for which any two sets of that size share an honest voter: ceil((n + f + 1) / 2)."""
    return (voters + faults(voters) + 2) // 2
