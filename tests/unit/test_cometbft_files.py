"""What is written into CometBFT's home, and what is not."""

import base64
import json
import stat
from hashlib import sha256
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from ledger_network import key, make_genesis
from tallystick.consensus.cometbft.chain import comet_chain
from tallystick.ledger.genesis import chain_id
from tallystick.network.cometbft.files import CometFilesError, rfc3339, write_home

GENESIS = make_genesis()


def test_the_genesis_document_names_our_network(tmp_path: Path) -> None:
    write_home(tmp_path / "a", GENESIS, key("v0"))
    write_home(tmp_path / "b", GENESIS, None)
    documents = {(tmp_path / name / "config" / "genesis.json").read_bytes() for name in "ab"}
    (data,) = documents
    document = json.loads(data)
    assert document["chain_id"] == comet_chain(chain_id(GENESIS)) == chain_id(GENESIS)
    assert document["genesis_time"] == "1970-01-01T00:16:40Z" and document["initial_height"] == "1"
    assert document["consensus_params"]["abci"] == {"vote_extensions_enable_height": "0"}
    listed = [base64.b64decode(entry["pub_key"]["value"]).hex() for entry in document["validators"]]
    assert listed == [info.identity for info in GENESIS.validators]
    for entry in document["validators"]:
        public = base64.b64decode(entry["pub_key"]["value"])
        assert entry["address"] == sha256(public).hexdigest()[:40].upper() and entry["power"] == "1"


def test_the_key_file_holds_the_key_of_our_identity(tmp_path: Path) -> None:
    write_home(tmp_path, GENESIS, key("v0"))
    path = tmp_path / "config" / "priv_validator_key.json"
    document = json.loads(path.read_bytes())
    secret = base64.b64decode(document["priv_key"]["value"])
    assert len(secret) == 64 and secret[32:].hex() == key("v0").identity
    assert bytes(SigningKey(secret[:32]).verify_key) == base64.b64decode(document["pub_key"]["value"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    state = json.loads((tmp_path / "data" / "priv_validator_state.json").read_bytes())
    assert state == {"height": "0", "round": 0, "step": 0}


def test_a_node_that_follows_has_no_key_of_ours(tmp_path: Path) -> None:
    write_home(tmp_path, GENESIS, None)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["genesis.json"]


@pytest.mark.parametrize(
    "name", ["config/genesis.json", "config/priv_validator_key.json", "data/priv_validator_state.json"]
)
def test_nothing_is_overwritten_and_then_nothing_is_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(CometFilesError, match=path.name):
        write_home(tmp_path, GENESIS, key("v0"))
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path] and path.read_text() == "mine"


@pytest.mark.parametrize("length", [1, 17, 18, 32])
def test_every_chain_id_fits(length: int) -> None:
    tail = "0123456789abcdef" * 2
    short = comet_chain("n" * length + "-" + tail)
    assert len(short) <= 50 and short.endswith("-" + tail) and short.startswith("n")
    assert comet_chain("a-b-" + tail) == "a-b-" + tail
    assert comet_chain("n" * 16 + "-nn-" + tail) == "n" * 16 + "-" + tail


@pytest.mark.parametrize(
    ("time_ms", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (1_700_000_000_120, "2023-11-14T22:13:20.12Z"),
        (1_700_000_000_900, "2023-11-14T22:13:20.9Z"),
    ],
)
def test_times_are_written_as_go_writes_them(time_ms: int, text: str) -> None:
    assert rfc3339(time_ms) == text
