"""The known attacks on proofs of learning, and what the tolerant mode does about each: part of every report."""

from typing import Final, Literal

import msgspec

Standing = Literal["open", "narrowed"]


class Attack(msgspec.Struct, frozen=True):
    name: str
    standing: Standing
    why: str


ATTACKS: Final = (
    Attack("steering within the tolerance", "open",
           "every segment may end anywhere within the threshold, so honest-looking steps can be bent toward a chosen "
           "model, by up to the threshold per segment"),
    Attack("infinitesimal update (Fang et al. 2023)", "narrowed",
           "settings come from your file, and segments in which standing still would have passed give no verdict; "
           "segments that were not replayed are not covered"),
    Attack("blindfold top-Q (Fang et al. 2023)", "narrowed",
           "the uniform samples catch it with the probability in this report; top-Q alone never does"),
    Attack("adversarial or synthetic records (Zhang et al. 2022)", "narrowed",
           "every byte of every record is compared with your copy of the data; if the copy came from the prover, "
           "records can have been made to yield wanted updates"),
    Attack("rank-matched or stolen initial weights (Zhang et al. 2022)", "narrowed",
           "the start must be the one that your file builds from the recorded seed; nothing shows that the seed was "
           "not chosen after looking at results"),
    Attack("choice of the data order", "narrowed",
           "checked if the record commits to an order that follows from its seed; else the prover chose it freely"),
    Attack("one bad segment among many", "open", "found only if it is sampled, with the probability in this report"),
    Attack("stitching and momentum injection in segments that were not replayed", "open",
           "weights, buffers and optimizer slots are compared at the ends of replayed segments only"),
    Attack("data forging and repudiation (Thudi et al. 2022, Kong et al. 2023)", "open",
           "within a tolerance the same state can be reached from other records, so the record cannot show which "
           "records were not used"),
    Attack("best of n, seed grinding and abandoned runs", "open", "nothing counts the runs that were not handed in"),
    Attack("back-dating and copying", "open",
           "a signature does not say when it was given; have the commitment time-stamped before training"),
    Attack("distilled or fine-tuned copies", "open", "training honestly toward a stolen model is honest training"),
    Attack("poisoned records", "open", "honest training on bad records is honest training"),
)  # fmt: skip
"""Closed ones are not listed: a changed file, transcript or last checkpoint, code in a checkpoint, a tolerance that
the prover chose, and NaN in place of a distance are `mismatch` or `could_not_check`."""
