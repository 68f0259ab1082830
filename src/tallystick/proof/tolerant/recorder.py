"""The recorder: what a training loop calls, at most five lines of it.

    with Recorder("run", model, optimizer, data, seed=7, interval=10, batch_size=32) as recorder:
        for indices in recorder.batches(epochs=5):
            ...one step of training on data[indices]...
            recorder.step(indices, loss)

Steps reach the disk together with the checkpoint that follows them, so what a kill leaves ends at a whole checkpoint,
and the next start goes on from there.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import torch
from torch import Tensor, nn

from tallystick.canon.encoding import to_json
from tallystick.canon.hashing import blob_name
from tallystick.canon.identity import Key
from tallystick.errors import Refused, TallystickError
from tallystick.proof.durable import append, write_whole
from tallystick.proof.tolerant import record as r
from tallystick.proof.tolerant.data import batch_digest, data_root, record_digests
from tallystick.proof.tolerant.files import Read, reader
from tallystick.proof.tolerant.record import Entry, Link, Manifest, checkpoint_name
from tallystick.proof.tolerant.run import Dataset, Run, advance, as_float
from tallystick.proof.tolerant.seeding import batch_of_step, seed_step
from tallystick.proof.tolerant.state import (
    architecture,
    capture,
    checkpoint_limit,
    decode_checkpoint,
    encode_checkpoint,
    restore,
    settings,
)

Setting = str | int | float | bool | None
DEFAULT_INTERVAL: Final = 100


class RecordError(TallystickError):
    """A record that cannot be begun, gone on with or finished; the message says why and what to do."""


class Recorder:
    """Writes the record of one training run, or goes on with one that was interrupted."""

    def __init__(
        self,
        path: str | Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        data: Dataset,
        *,
        seed: int,
        interval: int = DEFAULT_INTERVAL,
        batch_size: int | None = None,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        scheduler_every: int = 1,
        hyperparameters: Mapping[str, Setting] | None = None,
        key: Key | None = None,
        at: int | None = None,
    ) -> None:
        """Reads the data once to name every record, and writes the manifest when the `with` block is entered.

        Args:
            path: a new directory, or one with an unfinished record of the same run.
            data: the records as they are stored; random augmentation belongs into the step.
            seed: seeds the global generators before each step, and the order of the records if `batch_size` is given.
            interval: steps between two checkpoints.
            batch_size: makes `batches` draw the order from the seed, which the manifest then commits to.
            scheduler, scheduler_every: a learning-rate schedule, stepped by the loop once per so many steps.
            hyperparameters: anything else that must be the same when the run is resumed.
            key: signs the commitment before the first step and the record after the last.
            at: for frameworks that restore a run themselves: how many steps the run as handed in has done.
        """
        self._folder = Path(path)
        self._run = Run(model, optimizer, data, lambda indices: None, scheduler, scheduler_every)
        self._key, self._at = key, at
        self._digests = record_digests(data)
        self._chain = ""
        self._pending: list[Link] = []
        self._checkpoint: str | None = None
        """Digest of the checkpoint of the state as it is now, if it was written."""
        self.done = 0
        """Steps done."""
        self._manifest = Manifest(
            data=data_root(self._digests),
            records=len(self._digests),
            architecture=architecture(model),
            optimizer=type(optimizer).__qualname__,
            groups=settings(optimizer),
            hyperparameters={name: repr(value) for name, value in sorted((hyperparameters or {}).items())},
            seed=seed,
            interval=interval,
            batch_size=batch_size,
            initial="0" * 64,
        )

    def __enter__(self) -> Self:
        if (self._folder / r.MANIFEST).exists():
            self._resume()
        else:
            self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()

    def batches(self, *, epochs: int) -> Iterator[list[int]]:
        """The record indices of each step that is still to do, in an order that follows from the seed."""
        size = self._manifest.batch_size
        if size is None or size > self._manifest.records:
            raise RecordError("batches: give the recorder a `batch_size`, of at most the number of records")
        for step in range(self.done, epochs * (self._manifest.records // size)):
            self.begin_step()
            yield batch_of_step(self._manifest.seed, step, self._manifest.records, size)

    def begin_step(self) -> None:
        """Seeds the global generators for the next step. `batches` does it; a loop with its own loader must."""
        seed_step(self._manifest.seed, self.done)

    def step(self, indices: Sequence[int] | Tensor, loss: Tensor | float | None = None) -> None:
        """Records that one step was done, on the records of `indices`, after the optimizer and the schedule moved."""
        chosen = [int(index) for index in indices]
        wrong = next((index for index in chosen if not 0 <= index < len(self._digests)), None)
        if wrong is not None or not chosen:
            raise RecordError(f"step {self.done}: {wrong if chosen else 'no'} index of {len(self._digests)} records")
        value = None if loss is None else as_float(loss)
        batch = batch_digest(self._digests, chosen)
        entry = Entry(self.done, chosen, batch, None if value is None else value.hex(), None)
        self._last(entry)
        if self.done % self._manifest.interval == 0:
            self._save()

    def finish(self) -> None:
        """Writes the last checkpoint and the signature; a `with` block does it when it ends without an exception."""
        if not self.done:
            raise RecordError(f"{self._folder}: no step was recorded; there is nothing to finish")
        if self._checkpoint is None:
            self._save()
        assert self._checkpoint is not None
        statement = r.Statement(blob_name(to_json(self._manifest)), self._chain, self.done, self._checkpoint)
        signed = r.sign(self._key, statement) if self._key is not None else to_json(statement)
        write_whole(self._folder / r.SIGNATURE, signed)

    def _last(self, entry: Entry) -> None:
        """Holds the newest entry back until it is known whether a checkpoint follows it."""
        self._settle(None)
        self._open = entry
        self.done += 1
        self._checkpoint = None

    _open: Entry | None = None

    def _settle(self, checkpoint: str | None) -> None:
        if self._open is None:
            return
        entry = Entry(self._open.step, self._open.indices, self._open.batch, self._open.loss, checkpoint)
        self._chain = r.extend(self._chain, entry)
        self._pending.append(Link(entry, self._chain))
        self._open = None

    def _save(self) -> None:
        """Checkpoint first, then the lines that name it: a kill in between leaves a file that nothing names."""
        digest = self._write_checkpoint(self.done)
        self._settle(digest)
        append(self._folder / r.TRANSCRIPT, r.encode_links(self._pending))
        self._pending.clear()
        self._checkpoint = digest

    def _write_checkpoint(self, step: int) -> str:
        data = encode_checkpoint(capture(self._run.model, self._run.optimizer, step))
        write_whole(self._folder / checkpoint_name(step), data)
        return blob_name(data)

    def _begin(self) -> None:
        if self._at:
            raise RecordError(f"{self._folder}: the run has done {self._at} steps and no record of them is there")
        self._folder.mkdir(parents=True, exist_ok=True)
        if any(not entry.name.startswith(".") and entry.name != checkpoint_name(0) for entry in self._folder.iterdir()):
            raise RecordError(f"{self._folder}: holds other files; choose a new directory")
        self._manifest = _with_initial(self._manifest, self._write_checkpoint(0))
        encoded = to_json(self._manifest)
        self._chain = r.start(blob_name(encoded))
        if self._key is not None:
            write_whole(self._folder / r.COMMITMENT, r.commit(self._key, blob_name(encoded)))
        write_whole(self._folder / r.TRANSCRIPT, b"")
        write_whole(self._folder / r.MANIFEST, encoded)

    def _resume(self) -> None:
        if (self._folder / r.SIGNATURE).exists():
            raise RecordError(f"{self._folder}: holds a finished record; choose another directory")
        read = reader(self._folder)
        encoded = read(r.MANIFEST, r.MAX_MANIFEST_BYTES)
        manifest = r.decode_manifest(encoded)
        self._refuse_another_run(manifest)
        self._manifest = manifest
        links = _whole_links(read(r.TRANSCRIPT, r.MAX_TRANSCRIPT_BYTES), blob_name(encoded))
        limit = checkpoint_limit(self._run.model)
        while True:
            done = len(links)
            name = links[-1].entry.checkpoint if links else manifest.initial
            if name is not None and (self._at is None or self._at == done):
                data = _checkpoint_bytes(read, done, limit, name)
                if data is not None:
                    break
            if not links or (self._at is not None and done < self._at):
                raise RecordError(self._nowhere_to_go_on())
            links.pop()
        self._put_back(data, done)
        write_whole(self._folder / r.TRANSCRIPT, r.encode_links(links))
        self._chain = links[-1].chain if links else r.start(blob_name(encoded))
        self.done, self._checkpoint = done, name if done else None

    def _nowhere_to_go_on(self) -> str:
        if self._at is None:
            return f"{self._folder}: no whole checkpoint is left; start again in a new directory"
        return (
            f"{self._folder}: the run goes on at step {self._at}, where the record has no whole checkpoint; "
            f"save the run every {self._manifest.interval} steps, or a multiple of that"
        )

    def _put_back(self, data: bytes, done: int) -> None:
        checkpoint = decode_checkpoint(data, checkpoint_name(done))
        if self._at is not None:
            now = capture(self._run.model, self._run.optimizer, done).tensors
            if now.keys() != checkpoint.tensors.keys() or any(
                not torch.equal(value, checkpoint.tensors[name]) for name, value in now.items()
            ):
                raise RecordError(f"{self._folder}: the state at step {done} is not the recorded one")
            return
        advance(self._run, done)
        restore(self._run, checkpoint)
        groups = settings(self._run.optimizer)
        if groups != checkpoint.details.groups:
            raise RecordError(
                f"{self._folder}: at step {done} the optimizer's settings were {checkpoint.details.groups}, "
                f"now they are {groups}; pass the schedule as `scheduler`"
            )

    def _refuse_another_run(self, stored: Manifest) -> None:
        """Names everything that differs, because a run that goes on with other data or settings is another run."""
        skipped = {"initial"} | ({"groups"} if self._at is not None else set())
        differing = [
            f"{field}: {_shown(getattr(stored, field))} in the record, {_shown(getattr(self._manifest, field))} now"
            for field in Manifest.__struct_fields__
            if field not in skipped and getattr(stored, field) != getattr(self._manifest, field)
        ]
        if differing:
            raise RecordError(
                f"{self._folder}: cannot go on with this record, because the run is another one: "
                f"{'; '.join(differing)}. Restore these, or choose a new directory"
            )


def _shown(value: object) -> str:
    return str(value) if len(str(value)) <= 200 else str(value)[:200] + "..."


def _with_initial(manifest: Manifest, initial: str) -> Manifest:
    fields = {name: getattr(manifest, name) for name in Manifest.__struct_fields__}
    return Manifest(**{**fields, "initial": initial})


def _whole_links(data: bytes, name: str) -> list[Link]:
    """The links up to where a kill cut the file off, or its chain breaks."""
    links: list[Link] = []
    chain = r.start(name)
    for number, line in enumerate(data.split(b"\n")[:-1]):
        try:
            link = r.decode_line(line, number + 1)
        except Refused:
            break
        chain = r.extend(chain, link.entry)
        if (link.entry.step, link.chain) != (number, chain):
            break
        links.append(link)
    return links


def _checkpoint_bytes(read: Read, step: int, limit: int, name: str) -> bytes | None:
    try:
        data = read(checkpoint_name(step), limit)
    except Refused:
        return None
    return data if blob_name(data) == name else None
