"""The genesis document as a file, and as what consensus starts from."""

from pathlib import Path
from typing import Final

from tallystick.consensus.pbft import Group, Parameters
from tallystick.errors import Refused, TallystickError
from tallystick.ledger.genesis import MAX_GENESIS_BYTES, Genesis, chain_id, load_genesis

WAY_OUT: Final = "copy the one of the network, or make a network with `tallystick init`"


class GenesisFileError(TallystickError):
    """There is no genesis document to read."""


def read_genesis(path: Path) -> Genesis:
    """A genesis document from a file.

    Raises:
        GenesisFileError: it cannot be read.
        Refused: it is not a genesis document, or not one that validators can agree under; the message names `path`.
    """
    try:
        if path.stat().st_size > MAX_GENESIS_BYTES:
            raise Refused("too_large", f"over {MAX_GENESIS_BYTES} bytes")
        genesis = load_genesis(path.read_bytes())
        first_group(genesis)
    except OSError as error:
        raise GenesisFileError(f"{path}: {error.strerror}; {WAY_OUT}") from None
    except Refused as refused:
        raise Refused(refused.code, f"{path}: {refused.reason}; {WAY_OUT}") from None
    return genesis


def first_group(genesis: Genesis) -> Group:
    """The validators of the first epoch, and what all must share to agree on what is valid.

    Raises:
        Refused: `bad_parameters` or `bad_group`.
    """
    agreed = genesis.agreement
    parameters = Parameters(agreed.interval, agreed.epoch_length, agreed.window)
    return Group(chain_id(genesis), tuple(info.identity for info in genesis.validators), parameters=parameters)
