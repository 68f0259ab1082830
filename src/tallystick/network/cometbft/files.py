"""CometBFT's files for one of our networks: its genesis document, and the key file of a validator.

A validator votes in CometBFT with the key of its identity (`consensus/cometbft/validators.py`).
"""

import base64
import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from tallystick.canon.identity import Key
from tallystick.consensus.cometbft.chain import APP_VERSION, comet_chain
from tallystick.consensus.cometbft.validators import POWER, address_of
from tallystick.errors import TallystickError
from tallystick.ledger.genesis import Genesis, chain_id

GENESIS, KEY, SIGNED = "config/genesis.json", "config/priv_validator_key.json", "data/priv_validator_state.json"
"""Relative to CometBFT's home, where it looks for them by default."""
BLOCK_BYTES: Final = 4 * 2**20
EVIDENCE_AGE_BLOCKS: Final = 100_000
EVIDENCE_AGE_NS: Final = 48 * 3600 * 10**9
EVIDENCE_BYTES: Final = 256 * 2**10


class CometFilesError(TallystickError):
    """CometBFT's home cannot take our files."""


def write_home(home: Path, genesis: Genesis, key: Key | None) -> list[Path]:
    """Makes what `cometbft init` would otherwise make up, for it to find; without a key, for a node that only follows.
    Nothing is overwritten: a validator whose record of signed votes is replaced can vote twice.

    Raises:
        CometFilesError: one of the files is there already.
    """
    identities = [info.identity for info in genesis.validators]
    contents = {GENESIS: genesis_document(chain_id(genesis), genesis.time_ms, identities)}
    if key is not None:
        contents |= {KEY: key_document(key), SIGNED: _pretty({"height": "0", "round": 0, "step": 0})}
    paths = [home / name for name in contents]
    for path in paths:
        if path.exists():
            raise CometFilesError(f"{path}: is there already; it is not overwritten, so name a new folder")
    for path, data in zip(paths, contents.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    return paths


def genesis_document(chain: str, time_ms: int, validators: Sequence[str]) -> bytes:
    """CometBFT's `config/genesis.json`. 64-bit integers are strings there."""
    return _pretty(
        {
            "genesis_time": rfc3339(time_ms),
            "chain_id": comet_chain(chain),
            "initial_height": "1",
            "consensus_params": {
                "block": {"max_bytes": str(BLOCK_BYTES), "max_gas": "-1"},
                "evidence": {
                    "max_age_num_blocks": str(EVIDENCE_AGE_BLOCKS),
                    "max_age_duration": str(EVIDENCE_AGE_NS),
                    "max_bytes": str(EVIDENCE_BYTES),
                },
                "validator": {"pub_key_types": ["ed25519"]},
                "version": {"app": str(APP_VERSION)},
                "abci": {"vote_extensions_enable_height": "0"},
            },
            "validators": [
                {
                    "address": address_of(identity).hex().upper(),
                    "pub_key": _public(identity),
                    "power": str(POWER),
                    "name": f"validator-{index}",
                }
                for index, identity in enumerate(validators)
            ],
            "app_hash": "",
        }
    )


def key_document(key: Key) -> bytes:
    """CometBFT's `config/priv_validator_key.json`. It holds the secret key: write it with mode 0600."""
    secret = base64.b64encode(key.seed + bytes.fromhex(key.identity)).decode()
    return _pretty(
        {
            "address": address_of(key.identity).hex().upper(),
            "pub_key": _public(key.identity),
            "priv_key": {"type": "tendermint/PrivKeyEd25519", "value": secret},
        }
    )


def rfc3339(time_ms: int) -> str:
    """
    >>> rfc3339(1_700_000_000_120)
    '2023-11-14T22:13:20.12Z'
    """
    seconds, millis = divmod(time_ms, 1000)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment}.{millis:03d}".rstrip("0").rstrip(".") + "Z"


def _public(identity: str) -> dict[str, str]:
    return {"type": "tendermint/PubKeyEd25519", "value": base64.b64encode(bytes.fromhex(identity)).decode()}


def _pretty(document: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
