"""The prover's side of a run: `add` each step, and the proof is on disk soon after.

Hashing and writing happen in a thread beside the training, one segment (or one rooted step) at a time: hashing lets go
of the interpreter, so where there is a second core it costs next to no time. The thread never lags by more than one
hand-over, so what is in memory is bounded and a crash loses the open segment and at most the one being written.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import Key
from tallystick.errors import NonFiniteError, Refused, TallystickError
from tallystick.program.graph import TensorSpec
from tallystick.program.optimizers import Tensors
from tallystick.program.spec import encode_spec
from tallystick.program.tensors import from_blob, to_blob, without_zeros
from tallystick.program.training import LOSS, Training, mean_loss, state_specs, train_step
from tallystick.proof import manifest as m
from tallystick.proof.commitment import Commitment, sign_commitment
from tallystick.proof.durable import write_whole
from tallystick.proof.manifest import FileName
from tallystick.proof.recording import Scribe
from tallystick.proof.resume import recover
from tallystick.proof.roots import model_root, state_root_of, tensor_digests
from tallystick.proof.writer import Writer, create

OnStep = Callable[[int, int, float], None]
"""Called after each step with the number of steps done, the number there are, and the mean loss of this one."""
LAST_GOOD: Final = "last-good-{:08d}.safetensors"


class DivergedError(TallystickError):
    """Training has met an infinity or a NaN; the last good state is saved."""


@dataclass(frozen=True)
class Run:
    """A training and all that its proof holds besides."""

    training: Training
    program: bytes
    initial: Tensors
    test: Tensors | None


class Recorder:
    """Records a training into the proof at `path`: begins it, or goes on where it was left.

    Usable as a context; leaving it waits for the thread and lets go of the lock.

    Args:
        commitment: to `run`, for a new proof. For one that is there, what it must agree with.

    Raises:
        ProofExistsError: `path` is something else, or is being written.
        Refused: the proof that is there cannot be continued by this key with this commitment.
    """

    def __init__(self, path: Path, key: Key, run: Run, commitment: Commitment) -> None:
        if not (path / m.COMMITMENT).is_file():
            create(path, _contents(key, run, commitment))
        self.path = path
        self.commitment = commitment
        self.training = run.training
        self._key = key
        self._writer = Writer(path)
        try:
            found = recover(self._writer, key.identity, commitment, state_specs(run.training.program), run.initial)
        except BaseException:
            self._writer.__exit__(None, None, None)
            raise
        self.step, self.state = found.step, found.state
        self.durable = found.step
        """Steps that a crash can no longer undo."""
        self.finished = found.finished
        self._scribe = Scribe(run.training, commitment, found.link, found.state, found.step)
        self._losses: list[int] = []
        self._links = b""
        self._thread = ThreadPoolExecutor(1, "recorder")
        self._pending: Future[None] | None = None

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        self._writer.__exit__(kind, error, trace)

    def add(self, state: Tensors, total: Tensors) -> None:
        """Records the step after `self.step` steps: the state after it and the sum of its contributions."""
        step = self.step
        self.step, self.state = step + 1, state
        if not self.commitment.rooted(step):
            self._losses.append(int(total[LOSS]))
            return
        losses, self._losses = self._losses, []
        self.wait()
        self._pending = self._thread.submit(self._write, losses, state, total)

    def wait(self) -> None:
        """Waits until everything that was handed over is on disk, and raises what went wrong there."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def finish(self) -> None:
        """Signs the proof, after the last step."""
        self.wait()
        if self.step != self.commitment.steps:
            raise ValueError(f"{self.step} of {self.commitment.steps} steps are done")
        if not self.finished:
            digests = tensor_digests(self.state)
            root = state_root_of(digests, self.step)
            self._writer.finish(self._key, self._scribe.link, root, model_root(digests))
            self.finished = True

    def _write(self, losses: list[int], state: Tensors, total: Tensors) -> None:
        """In the thread."""
        for loss in losses:
            self._links += self._scribe.pass_over(loss)
        link, closed = self._scribe.write(state, total)
        self._links += link
        if closed is not None:
            self._writer.append(self.commitment, closed, self._links)
            self._links, self.durable = b"", closed.segment.step


def train(recorder: Recorder, on_step: OnStep | None = None, stop: Callable[[], bool] = lambda: False) -> bool:
    """Trains on this machine from where `recorder` stands and signs the proof; False if `stop` ended it before.

    Args:
        stop: asked after each step.

    Raises:
        DivergedError: with the operator, its place in the model, and the file with the last good state.
    """
    training = recorder.training
    steps, micro_batches = training.spec.steps, training.spec.micro_batches
    while recorder.step < steps:
        try:
            state, total = train_step(training, recorder.state, recorder.step)
        except NonFiniteError as error:
            raise _diverged(recorder, error) from None
        recorder.add(state, total)
        if on_step is not None:
            on_step(recorder.step, steps, mean_loss(int(total[LOSS]), micro_batches))
        if stop():
            recorder.wait()
            return False
    recorder.finish()
    return True


def _diverged(recorder: Recorder, error: NonFiniteError) -> DivergedError:
    recorder.wait()
    name = LAST_GOOD.format(recorder.step)
    write_whole(recorder.path / name, to_blob(recorder.state))
    return DivergedError(
        f"training has diverged: {error}. The last good state, before step {recorder.step}, is "
        f"{recorder.path / name}; change the task and train into a new directory"
    )


def _contents(key: Key, run: Run, commitment: Commitment) -> dict[FileName, bytes]:
    """The files of a proof before step 0, after a look whether a verifier would take them."""
    spec = run.training.spec
    encoded = encode_spec(spec)
    if blob_name(encoded) != commitment.spec:
        raise Refused("bad_commitment", "commitment: it is to another training specification")
    named: list[tuple[FileName, Tensors, list[TensorSpec]]] = [(m.TRAIN, run.training.records, spec.train.tensors)]
    contents: dict[FileName, bytes] = {
        m.SPEC: encoded,
        m.PROGRAM: run.program,
        m.COMMITMENT: sign_commitment(key, commitment),
        m.INITIAL: to_blob(without_zeros(run.initial)),
    }
    from_blob(contents[m.INITIAL], state_specs(run.training.program), m.INITIAL, zeros_left_out=True)
    if spec.test is not None and run.test is not None:
        named.append((m.TEST, run.test, spec.test.tensors))
    for name, tensors, expected in named:
        contents[name] = to_blob(tensors)
        from_blob(contents[name], expected, name)
    return contents
