"""Where validators are reached: as genesis, the ledger or an earlier ledger said, the latest word first.

The ledger forgets a validator when it leaves, but the others may need its vote for the checkpoint at which it left. So
those of the last two epochs are kept in a file, for whoever is started again in between.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tallystick.canon.encoding import from_json, to_json
from tallystick.consensus.pbft.limits import MAX_VALIDATORS
from tallystick.errors import Refused
from tallystick.network.peers import Validator
from tallystick.proof.durable import write_whole

MAX_BYTES: Final = 2 * MAX_VALIDATORS * 20 * 1024
"""Of the file; a certificate may take 16 KiB."""

log = logging.getLogger(__name__)


class AddressBook:
    """Owns one file. It is a help and decides nothing: without it, a leaver has to be waited for in another way."""

    def __init__(self, path: Path, genesis: Iterable[Validator]) -> None:
        self._path = path
        self._known = {validator.identity: validator for validator in genesis}
        self._written = self._kept()
        """What the file holds, as far as we know."""
        self.learn(self._written)

    def learn(self, validators: Iterable[Validator]) -> None:
        self._known |= {validator.identity: validator for validator in validators}

    def find(self, identity: str) -> Validator | None:
        return self._known.get(identity)

    def keep(self, identities: Iterable[str]) -> None:
        """Writes down where these are reached, as far as that is known, and nobody else."""
        found = [self._known[identity] for identity in dict.fromkeys(identities) if identity in self._known]
        if found == self._written:
            return
        try:
            write_whole(self._path, to_json(found))
        except OSError as error:
            log.warning("%s cannot be written: %s; it is tried again when the epoch changes", self._path, error)
        else:
            self._written = found

    def _kept(self) -> list[Validator]:
        if not self._path.exists():
            return []
        try:
            return from_json(self._path.read_bytes(), list[Validator], limit=MAX_BYTES, what=str(self._path))
        except (OSError, Refused) as error:
            log.warning("%s is not used: %s; it is written anew when validators change", self._path, error)
            return []
