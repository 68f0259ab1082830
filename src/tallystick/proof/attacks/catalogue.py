"""All known attacks on proofs of training: what the attacker gains, what stops it here, and whether it can be run."""

from dataclasses import dataclass
from typing import Final, Literal

Standing = Literal["run", "elsewhere", "not stopped"]


@dataclass(frozen=True)
class Row:
    number: int
    name: str
    source: str
    gain: str
    defense: str
    standing: Standing = "run"
    note: str = ""
    """Where it is run if not here, why nothing stops it, or what the exact verifier's answer does not cover."""


ROWS: Final = (
    Row(1, "infinitesimal update", "Fang et al. 2023", "a proof of somebody else's model without any training",
        "re-execution without a tolerance; the learning rate is the specification's"),
    Row(2, "blindfold top-Q", "Fang et al. 2023", "work in the few segments that a verifier can be foreseen to look at",
        "segments are drawn uniformly from a nonce that is chosen after the signature"),
    Row(3, "optimized data I to III", "Zhang et al. 2022", "records made so that training on them leads where wanted",
        "the specification names the records by a root before training"),
    Row(4, "rank-matched start", "Zhang et al. 2022", "a start near the wanted model that looks random",
        "the specification names the start by a root; no test of its distribution"),
    Row(5, "stolen start", "Zhang et al. 2022", "a short proof for a model that was finished before",
        "the verifier says which specification it wants; a parent must be a verified proof",
        note="whoever lets the prover write the specification must look at its start"),
    Row(6, "stitching", "Jia et al. 2021", "two unrelated runs as one",
        "a segment starts from the state that the one before ended in"),
    Row(7, "optimizer-state injection", "reading the 2021 code", "momentum that drives the weights where wanted",
        "digests and re-execution cover every slot"),
    Row(8, "unchecked buffers", "reading the 2021 code", "a model that behaves otherwise than trained",
        "digests and re-execution cover every buffer"),
    Row(9, "hyper-parameter override", "reading the 2021 code", "less work, or updates of any size",
        "re-execution takes the learning rate from the specification alone"),
    Row(10, "seed and order grinding", "Choi et al. 2023", "the luckiest of many orders under one commitment",
        "order and noise follow from the specification's seed",
        note="a prover who writes the specification can try seeds before it commits"),
    Row(11, "relabeled data", "Jia et al. 2021", "training on other labels than agreed",
        "the root covers every byte of records and labels"),
    Row(12, "omitted data", "Kong et al. 2023", "a record that was never used, or used twice",
        "re-execution uses the records that the seed's order says"),
    Row(13, "augmentation and dropout cheating", "OPEN-1B audit log", "masks of one's own choice",
        "noise follows from seed, step and micro-batch"),
    Row(14, "edit after training", "model supply chains", "a model that is not the trained one",
        "the final state is compared with the last segment, bit for bit"),
    Row(15, "copying another worker", "RPoL", "pay for work that somebody else did",
        "contributions are committed to with the worker's identity inside, then revealed",
        "elsewhere", "tests/unit/test_ledger_stories.py"),
    Row(16, "old proof under a new key", "Jia et al. 2021", "to pass for the one who trained",
        "the first link is a digest of the signed commitment",
        note="a copy that computes every link anew is a true proof; anchors say who was first (proof/ownership.py)"),
    Row(17, "selective abort, best of n", "reading", "the best of many runs as if it were the only one",
        "a specification has one result, bit for bit; another seed is another specification",
        note="a prover who writes the specification can abandon runs; `attempt` is only a claim"),
    Row(18, "one bad step", "Jia et al. 2021", "one step of one's own in an honest training",
        "re-execution in full; a sample finds it with the probability in its verdict"),
    Row(19, "last-step backdoor", "Fang et al. 2023", "a poisoned model with an honest history",
        "first and last segment are in every sample"),
    Row(20, "malicious files", "CVE-2025-32434 and others", "code or memory of the verifier",
        "nothing is unpickled; sizes and kinds of files are checked before they are read"),
    Row(21, "canonicalization tricks", "signature practice",
        "two values under one signature, or two digests of one value",
        "one spelling of each document, one bit pattern of each number"),
    Row(22, "Merkle tricks", "CVE-2012-2459, RFC 6962", "an opening of something that is not there",
        "leaves and nodes are hashed in different domains, and sizes follow from the program"),
    Row(23, "verifier downgrade", "reading the 2021 code", "a verifier that looks away",
        "what is compared and how much is fixed by the verifier; there is no tolerance to set"),
    Row(24, "tampered arithmetic", "OPEN-1B audit log", "cheaper steps than the committed ones",
        "re-execution in the committed profile",
        note="a verifier's own machine is checked by `tallystick selftest`"),
    Row(25, "dishonest referee exchange", "Verde", "to win a dispute by stalling or by false openings",
        "signed moves, deadlines, openings that are checked against roots",
        "elsewhere", "tests/unit/test_dispute_game.py"),
    Row(26, "lazy auditor", "Incentive-secure PoL", "an auditor's pay for saying yes",
        "a verdict that others refute costs the auditor's stake",
        "elsewhere", "tests/unit/test_ledger_stories.py"),
    Row(27, "distilled or fine-tuned copy", "Jia et al. 2021",
        "a true proof of a model that was learned from a stolen one",
        "none", "not stopped", "training honestly toward a stolen model is honest training"),
    Row(28, "poisoned records", "out of scope since 2021", "a model with a backdoor and a true proof",
        "none", "not stopped", "training honestly on bad records is honest training; look at the records"),
)  # fmt: skip


def row(number: int) -> Row:
    return ROWS[number - 1]
