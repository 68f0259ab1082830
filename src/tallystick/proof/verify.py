"""Verification by full re-execution: every step is computed again and compared with the transcript, bit for bit.

`verified` means zero differences. A proof that is signed and well-formed but says something false is a `mismatch`; one
that cannot be read, authenticated, parsed or executed is `could_not_check`. Nothing that a prover recorded is obeyed:
data order, learning rate and number of steps come from the specification, and what is compared is fixed here.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from tallystick.errors import NonFiniteError, Refused, TallystickError
from tallystick.program.optimizers import Tensors
from tallystick.program.training import Training, accuracy, initial_state, mean_loss, prepare_training, train_step
from tallystick.proof.claims import false_claim
from tallystick.proof.directory import Proof, read_proof
from tallystick.proof.recording import OnStep, entry_for
from tallystick.proof.transcript import Entry
from tallystick.proof.verdict import Difference, Verdict

T = TypeVar("T")


def verify(path: Path, on_progress: OnStep | None = None) -> Verdict:
    """Checks the proof in directory `path`. Whatever is in there, the answer is a verdict, not an exception.

    Args:
        on_progress: called after each step that agreed.
    """
    try:
        proof = read_proof(path)
    except Refused as refused:
        return _could_not_check(refused)
    return check(proof, on_progress)


def check(proof: Proof, on_progress: OnStep | None = None) -> Verdict:
    """Checks a proof that has been read."""
    return msgspec.structs.replace(
        _check(proof, on_progress),
        prover=proof.prover,
        spec=proof.spec_name,
        network=proof.manifest.network,
        task=proof.manifest.task,
        final_root=proof.statement.root,
    )


def _check(proof: Proof, on_progress: OnStep | None) -> Verdict:
    difference = false_claim(proof)
    if difference is not None:
        return _mismatch(difference, 0)
    try:
        training = _executed("preparation", lambda: prepare_training(proof.spec, proof.program, proof.train))
        difference = _wrong_exponent(training, proof.initial)
        if difference is not None:
            return _mismatch(difference, 0)
        steps, difference = _replay(training, proof, on_progress)
    except Refused as refused:
        return _could_not_check(refused)
    if difference is not None:
        return _mismatch(difference, steps)
    return Verdict(
        outcome="verified",
        code="verified",
        reason=f"all {steps} steps were re-executed and every state is the same, bit for bit",
        steps=steps,
        test_accuracy=_test_accuracy(training, proof),
    )


def _could_not_check(refused: Refused) -> Verdict:
    return Verdict(outcome="could_not_check", code=refused.code, reason=refused.reason)


def _mismatch(difference: Difference, steps: int) -> Verdict:
    return Verdict(
        outcome="mismatch",
        code=difference.code,
        reason=difference.reason,
        step=difference.step,
        tensor=difference.tensor,
        expected=difference.expected,
        found=difference.found,
        steps=steps,
    )


def _replay(training: Training, proof: Proof, on_progress: OnStep | None) -> tuple[int, Difference | None]:
    """How many steps agree, and the first difference after them."""
    state, names, total_steps = proof.initial, sorted(proof.initial), training.spec.steps
    for step, link in enumerate(proof.links):
        try:
            state, total = _step(training, state, step)
        except NonFiniteError as error:
            return step, _diverged(step, error)
        computed = entry_for(step, state, total)
        difference = next(_differences(names, computed, link.entry), None)
        if difference is not None:
            return step, difference
        if on_progress is not None:
            on_progress(step + 1, total_steps, mean_loss(computed.loss, training.spec.micro_batches))
    return total_steps, None


def _step(training: Training, state: Tensors, step: int) -> tuple[Tensors, Tensors]:
    return _executed(f"step {step}", lambda: train_step(training, state, step))


def _differences(names: list[str], computed: Entry, claimed: Entry) -> Iterator[Difference]:
    """Where two entries of one step differ, the most telling place first."""
    step = computed.step
    for name, expected, found in zip(names, computed.tensors, claimed.tensors, strict=True):
        if expected != found:
            yield Difference(
                "wrong_tensor", f"step {step}: {name} differs after re-execution", step, name, expected, found
            )
    if computed.total != claimed.total:
        reason = f"step {step}: the sum of the contributions differs after re-execution"
        yield Difference("wrong_total", reason, step, None, computed.total, claimed.total)
    if computed.loss != claimed.loss:
        reason = f"step {step}: the loss differs after re-execution"
        yield Difference("wrong_loss", reason, step, None, str(computed.loss), str(claimed.loss))
    if computed.root != claimed.root:
        reason = f"step {step}: the root is not that of the tensors named beside it"
        yield Difference("wrong_root", reason, step, None, computed.root, claimed.root)


def _wrong_exponent(training: Training, initial: Tensors) -> Difference | None:
    """An exponent that is not that of the first gradient.

    Exponents scale what a step can change, so a prover who chose them could make training stand still.
    """
    parameters = {name: initial[f"parameter/{name}"] for name in training.parameters}
    slots = {name: initial[f"slot/{name}"] for name in training.slots}
    try:
        derived = _executed("initial state", lambda: initial_state(training, parameters, slots))
    except NonFiniteError as error:
        return _diverged(0, error)
    for name in (f"exponent/{parameter}" for parameter in training.parameters):
        expected, found = int(derived[name]), int(initial[name])
        if expected != found:
            reason = f"initial state: {name} is not that of the first gradient"
            return Difference("wrong_exponent", reason, None, name, str(expected), str(found))
    return None


def _diverged(step: int, error: NonFiniteError) -> Difference:
    return Difference("not_finite", f"step {step}: re-execution reaches an infinity or a NaN: {error}", step)


def _test_accuracy(training: Training, proof: Proof) -> float | None:
    """None if there is no test set, or none that the program classifies: accuracy is no claim of the proof."""
    test = proof.test
    if test is None or not _classifies(training, proof):
        return None
    try:
        return _executed("test set", lambda: accuracy(training, proof.final, test))
    except (NonFiniteError, Refused):
        return None


def _classifies(training: Training, proof: Proof) -> bool:
    """Whether test records fit the program, its target is a class and its output scores classes."""
    program, test = training.program, proof.spec.test
    if test is None or test.records == 0:
        return False
    fits = [(t.name, t.dtype, t.shape[1:]) for t in test.tensors] == [
        (t.name, t.dtype, t.shape[1:]) for t in program.batch
    ]
    target, graph = program.batch[-1], program.predict
    values = [*graph.inputs, *(node.result for node in graph.nodes)]
    scores = values[graph.outputs[0].index]
    one_row_each = len(scores.shape) == 2 and scores.shape[0] == program.micro_batch_size
    return fits and target.dtype == "int64" and len(target.shape) == 1 and one_row_each


def _executed(what: str, compute: Callable[[], T]) -> T:
    """Runs part of a stranger's program.

    Shapes are checked beforehand, but operands can still be such that an operator of torch raises, for instance an
    index past the end.

    Raises:
        Refused: `not_executable`, or what the program was refused for.
        NonFiniteError: from a kernel.
    """
    try:
        return compute()
    except TallystickError:
        raise
    except Exception as error:
        detail = f"{type(error).__name__}: {str(error)[:200]}".splitlines()[0]
        raise Refused("not_executable", f"{what}: cannot be re-executed: {detail}") from None
