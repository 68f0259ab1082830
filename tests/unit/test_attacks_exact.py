"""Every attack is refused for the right reason, and accepted as soon as just the defense against it is taken away."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from tallystick.canon import merkle
from tallystick.program import tensors
from tallystick.program.optimizers import Tensors
from tallystick.program.schedule import ConstantRate
from tallystick.program.training import Training, prepare_training, train_step
from tallystick.proof import claims, directory, lineage, recording, replay, roots, segments, verify
from tallystick.proof import manifest as m
from tallystick.proof.attacks import bench as b
from tallystick.proof.attacks import hostile
from tallystick.proof.attacks.attempt import Attack, Finding
from tallystick.proof.attacks.bench import Bench, make_bench
from tallystick.proof.attacks.choices import NOISY_STEP, SEEDS, best_seed, fast, with_mask_of, with_seed, without
from tallystick.proof.attacks.history import BAD_SEGMENT, OTHER_RATE, SEAM
from tallystick.proof.attacks.hostile import MARK
from tallystick.proof.attacks.run import ATTACKS
from tallystick.proof.attacks.steering import REAL
from tallystick.proof.commitment import Commitment
from tallystick.proof.directory import Places, Proof, open_proof, scan_segments
from tallystick.proof.policy import FULL, Policy, chosen
from tallystick.proof.replay import Job, OnLoss, Result
from tallystick.proof.transcript import start

Patch = pytest.MonkeyPatch
Removal = Callable[[Patch, Bench, Path], None]
BY_NAME = {attack.name: attack for attack in ATTACKS}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # nothing here is large enough to gain from more
    with torch.random.fork_rng(devices=[]):
        yield make_bench(tmp_path_factory.mktemp("bench"))
    torch.set_num_threads(threads)


def test_the_honest_proof_is_verified(bench: Bench) -> None:
    """Without this, refusing everything would pass all tests below."""
    verdict = verify.verify(Places(bench.honest), bench.how())
    assert (verdict.outcome, verdict.steps) == ("verified", b.STEPS)


# ---- the defenses, each as its removal


def no_execution(patch: Patch, bench: Bench, path: Path) -> None:
    """Segments are taken as they are, as a tolerance without bounds would."""
    patch.setattr(verify, "replay", lambda proof, training, job, on=None: Result(job.index, b.SEGMENT))


def foreseeable(patch: Patch, bench: Bench, path: Path) -> None:
    """Top-Q: the ends and the largest updates, as the proof itself states them."""
    proof = open_proof(Places(path))
    updates = {index: float(line.update or 0) for index, line in enumerate(scan_segments(proof))}
    largest = sorted(updates, key=lambda index: -updates[index])[: len(REAL) - 2]
    picked = sorted({0, b.SEGMENTS - 1, *largest})
    assert len(picked) >= 2
    patch.setattr(verify, "chosen", lambda *given: picked)


def any_records(patch: Patch, bench: Bench, path: Path) -> None:
    patch.setattr(claims, "_wrong_records", lambda *given: iter(()))


def any_start(patch: Patch, bench: Bench, path: Path) -> None:
    patch.setattr(claims, "state_root", lambda state, step: bench.spec.initial_root)


def any_spec(patch: Patch, bench: Bench, path: Path) -> None:
    patch.setattr(verify, "_unwanted", lambda proof, how: None)


def any_parent(patch: Patch, bench: Bench, path: Path) -> None:
    patch.setattr(lineage, "require_descent", lambda child, parent: None)


def loose_seams(patch: Patch, bench: Bench, path: Path) -> None:
    """A segment starts from a state that the prover chooses for it."""
    first = bench.other_run[SEAM]
    root = roots.state_root(first, SEAM)

    def from_its_own(proof: Proof, training: Training, job: Job, on: OnLoss | None = None) -> Result:
        if job.index == SEAM // b.SEGMENT and job.before is not None:
            job = Job(job.index, msgspec.structs.replace(job.before, root=root), job.claimed)
        return replay.replay(proof, training, job, on)

    read = directory.read_state
    patch.setattr(replay, "read_state", lambda proof, step, *sha: first if step == SEAM else read(proof, step, *sha))
    patch.setattr(verify, "replay", from_its_own)


def blind_to(prefix: str) -> Removal:
    """States are named without some of their tensors, by the prover as by the verifier."""

    def remove(patch: Patch, bench: Bench, path: Path) -> None:
        def digests(state: Tensors) -> dict[str, bytes]:
            full = roots.tensor_digests(state)
            return {name: bytes(32) if name.startswith(prefix) else value for name, value in full.items()}

        for module in (recording, claims, replay, b):
            patch.setattr(module, "tensor_digests", digests)
        for module in (replay, b):
            patch.setattr(module, "state_root", lambda state, step: roots.state_root_of(digests(state), step))
        but_for(patch, "wrong_checkpoint")

    return remove


def but_for(patch: Patch, code: str) -> None:
    """Re-execution passes over the differences of one kind."""
    differences = replay._differences
    patch.setattr(replay, "_differences", lambda *given: (d for d in differences(*given) if d.code != code))


def obeys(training_of: Callable[[Bench], Training]) -> Removal:
    """Re-execution takes something from the prover instead of from the specification."""

    def remove(patch: Patch, bench: Bench, path: Path) -> None:
        theirs = training_of(bench)

        def obedient(proof: Proof, training: Training, job: Job, on: OnLoss | None = None) -> Result:
            return replay.replay(proof, theirs, job, on)

        patch.setattr(verify, "replay", obedient)

    return remove


def with_rate(bench: Bench) -> Training:
    return replace(bench.training, spec=msgspec.structs.replace(bench.spec, learning_rate=ConstantRate(OTHER_RATE)))


def any_mask(patch: Patch, bench: Bench, path: Path) -> None:
    def masked(training: Training, state: Tensors, step: int) -> tuple[Tensors, Tensors]:
        return train_step(with_mask_of(training, SEEDS[0], step) if step == NOISY_STEP else training, state, step)

    patch.setattr(replay, "train_step", masked)


def any_end(patch: Patch, bench: Bench, path: Path) -> None:
    """Neither what the files claim nor the re-executed last segment is held against the final state."""
    patch.setattr(claims, "_wrong_end", lambda *given: iter(()))
    but_for(patch, "wrong_final_state")


def unbound_chain(patch: Patch, bench: Bench, path: Path) -> None:
    """The first link does not depend on who committed."""
    first = start((bench.honest / m.COMMITMENT).read_bytes())
    patch.setattr(directory, "start", lambda sealed: first)


def spares(segment: int) -> Removal:
    """The verifier never looks at one segment."""

    def remove(patch: Patch, bench: Bench, path: Path) -> None:
        def without_it(policy: Policy, commitment: Commitment, proof: str) -> list[int]:
            return [index for index in chosen(policy, commitment, proof) if index != segment]

        patch.setattr(verify, "chosen", without_it)

    return remove


def follows_links(patch: Patch, bench: Bench, path: Path) -> None:
    patch.setattr(os, "O_NOFOLLOW", 0)


def any_spelling(patch: Patch, bench: Bench, path: Path) -> None:
    patch.setattr(segments, "from_json", lambda data, kind, **how: msgspec.json.decode(data, type=kind))


def one_domain(patch: Patch, bench: Bench, path: Path) -> None:
    patch.setattr(merkle, "LEAF", merkle.NODE)


def unbound_sizes(patch: Patch, bench: Bench, path: Path) -> None:
    patch.setattr(hostile, "known_size", lambda genuine, shown: len(shown))


def one_domain_and_unbound_sizes(patch: Patch, bench: Bench, path: Path) -> None:
    one_domain(patch, bench, path)
    unbound_sizes(patch, bench, path)


def any_number(patch: Patch, bench: Bench, path: Path) -> None:
    patch.setattr(tensors, "_check", lambda *given: None)


REMOVALS: dict[str, Removal] = {
    "infinitesimal update": no_execution,
    "blindfold top-Q": foreseeable,
    "optimized data I: every batch": any_records,
    "optimized data II: batches that move nothing": any_records,
    "optimized data III: one batch per segment": any_records,
    "rank-matched start": any_start,
    "stolen start": any_spec,
    "stolen start with a false parent": any_parent,
    "stitching two runs": loose_seams,
    "momentum injection": blind_to("slot/"),
    "running statistics edited": blind_to("buffer/"),
    "learning rate overridden": obeys(with_rate),
    "order of the best of several seeds": obeys(lambda bench: with_seed(bench.training, best_seed(bench))),
    "one label changed": any_records,
    "a record never used": obeys(lambda bench: replace(bench.training, records=without(bench.training.records))),
    "another dropout mask in one step": any_mask,
    "one bit of the final model": any_end,
    "old proof under another key": unbound_chain,
    "best of several runs": any_spec,
    "one bad step": spares(BAD_SEGMENT),
    "backdoor in the last step": spares(b.SEGMENTS - 1),
    "a link out of the proof": follows_links,
    "a key repeated": any_spelling,
    "an inner node as a leaf": one_domain_and_unbound_sizes,
    "a tolerance in the proof, one segment": no_execution,
    "cheaper arithmetic than committed": obeys(
        lambda bench: prepare_training(bench.spec, fast(bench.training.program), bench.training.records)
    ),
}
TWO_DEFENSES: dict[tuple[str, str], Removal] = {
    ("NaN in a weight", "wrong_final_state"): any_number,
    ("-0 in place of 0", "wrong_initial_state"): any_number,
    ("an inner node as a leaf", "opening_refused"): one_domain,
}
"""Where another defense stands behind the first, and what it says."""
NOTHING_TO_REMOVE = {"a pickle for a checkpoint", "a file of 3 GiB", "a shape beyond all memory"}
"""There is no unpickler to bring back, and what the limits keep out would not fit into this machine."""
MADE_ANEW = {"momentum injection", "running statistics edited"}
"""Where the prover's own names for states lack the defense, too."""


def test_every_attack_has_its_defense_removed() -> None:
    guarded_twice = {name for name, _ in TWO_DEFENSES}
    assert set(REMOVALS) | guarded_twice | NOTHING_TO_REMOVE == set(BY_NAME)


@pytest.mark.parametrize("name", BY_NAME)
def test_an_attack_is_refused_and_without_its_defense_accepted(
    bench: Bench, tmp_path: Path, monkeypatch: Patch, name: str
) -> None:
    attack: Attack = BY_NAME[name]
    path = tmp_path / "attack"
    attack.make(bench, path)
    assert attack.ask(bench, path) == Finding("caught", attack.code)
    if name in REMOVALS:
        REMOVALS[name](monkeypatch, bench, path)
        if name in MADE_ANEW:
            path = tmp_path / "anew"
            attack.make(bench, path)
        found = attack.ask(bench, path)
        assert found.answer == "accepted", found


@pytest.mark.parametrize(("name", "code"), TWO_DEFENSES)
def test_a_second_defense_stands_behind_the_first(
    bench: Bench, tmp_path: Path, monkeypatch: Patch, name: str, code: str
) -> None:
    BY_NAME[name].make(bench, tmp_path / "attack")
    TWO_DEFENSES[name, code](monkeypatch, bench, tmp_path / "attack")
    assert BY_NAME[name].ask(bench, tmp_path / "attack") == Finding("caught", code)


def test_sizes_without_domains_and_domains_without_sizes_refuse_an_inner_node(
    bench: Bench, tmp_path: Path, monkeypatch: Patch
) -> None:
    unbound_sizes(monkeypatch, bench, tmp_path)
    attack = BY_NAME["an inner node as a leaf"]
    assert attack.ask(bench, tmp_path) == Finding("caught", "opening_refused")


def test_nothing_in_a_proof_runs(bench: Bench, tmp_path: Path) -> None:
    attack = BY_NAME["a pickle for a checkpoint"]
    attack.make(bench, tmp_path / "attack")
    assert MARK.encode() in (tmp_path / "attack" / m.CHECKPOINTS / "00000005.safetensors").read_bytes()
    attack.ask(bench, tmp_path / "attack")
    assert not (tmp_path / MARK).exists()


def test_forgeries_are_of_the_attacker_and_well_formed(bench: Bench, tmp_path: Path) -> None:
    """What `forge` writes for an honest prover verifies: nothing but the lie is wrong with a forgery."""
    b.forge(bench, tmp_path / "proof", b.honestly(bench))
    verdict = verify.verify(Places(tmp_path / "proof"), bench.how(FULL))
    assert (verdict.outcome, verdict.prover) == ("verified", b.ATTACKER.identity)
