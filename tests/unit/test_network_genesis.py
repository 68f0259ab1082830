"""The genesis document as a file: what validators agree under is in it, and nothing that they could not agree under."""

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from ledger_network import make_genesis
from tallystick.canon.encoding import to_json
from tallystick.cli.main import app
from tallystick.consensus.pbft import Parameters
from tallystick.errors import Refused
from tallystick.ledger.genesis import MAX_GENESIS_BYTES, Agreement, Genesis, chain_id, dump_genesis
from tallystick.network.genesis import GenesisFileError, first_group, read_genesis


def written(path: Path, genesis: Genesis) -> Path:
    path.write_bytes(dump_genesis(genesis))
    return path


def test_the_parameters_of_consensus_are_those_of_the_document(tmp_path: Path) -> None:
    genesis = replace(make_genesis(), agreement=Agreement(4, 12, 3))
    group = first_group(read_genesis(written(tmp_path / "genesis.json", genesis)))
    assert group.parameters == Parameters(interval=4, epoch_length=12, window=3)
    assert (group.chain, len(group.validators)) == (chain_id(genesis), 4)
    assert first_group(make_genesis()).parameters == Parameters(), "the usual ones"
    assert chain_id(genesis) != chain_id(make_genesis()), "who agrees under other terms is on another chain"


@pytest.mark.parametrize("terms", [(4, 13, 3), (4, 2, 3), (4, 12, 5), (65, 130, 8), (2**20, 2**20, 1)])
def test_terms_that_nobody_can_agree_under_are_refused_with_what_is_needed(
    tmp_path: Path, terms: tuple[int, int, int]
) -> None:
    path = written(tmp_path / "genesis.json", replace(make_genesis(), agreement=Agreement(*terms)))
    with pytest.raises(Refused, match=f"interval {terms[0]}, .*need 1 <= window <= interval <= 64") as refused:
        read_genesis(path)
    assert refused.value.code == "bad_parameters"


@pytest.mark.parametrize("terms", [{}, {"interval": 0}, {"interval": 2.5}, {"interval": "4"}, {"window": -1}, {"w": 1}])
def test_terms_are_whole_numbers_above_zero(tmp_path: Path, terms: dict[str, object]) -> None:
    document = msgspec.json.decode(dump_genesis(make_genesis()))
    document["agreement"] = document["agreement"] | terms if terms else {}
    (tmp_path / "genesis.json").write_bytes(msgspec.json.encode(document))
    with pytest.raises(Refused) as refused:
        read_genesis(tmp_path / "genesis.json")
    assert refused.value.code == ("malformed" if terms else "not_canonical")
    del document["agreement"]
    (tmp_path / "genesis.json").write_bytes(to_json(document))
    with pytest.raises(Refused, match="missing required field `agreement`"):
        read_genesis(tmp_path / "genesis.json")


def test_a_file_that_is_missing_or_huge_says_so(tmp_path: Path) -> None:
    with pytest.raises(GenesisFileError, match="tallystick init"):
        read_genesis(tmp_path / "genesis.json")
    (tmp_path / "genesis.json").write_bytes(bytes(MAX_GENESIS_BYTES + 1))
    with pytest.raises(Refused, match="too_large"):
        read_genesis(tmp_path / "genesis.json")


def test_a_network_is_made_under_the_terms_asked_for_or_not_at_all(tmp_path: Path) -> None:
    folder, options = tmp_path / "net", ("--validators", "1", "--workers", "0")
    bad = CliRunner().invoke(app, ["init", str(folder), *options, "--interval", "5"])
    assert isinstance(bad.exception, Refused) and bad.exception.code == "bad_parameters"
    assert not folder.exists(), "nothing is left of a network that cannot be"
    terms = ("--interval", "5", "--epoch-length", "20", "--window", "2")
    good = CliRunner().invoke(app, ["init", str(folder), *options, *terms], catch_exceptions=False)
    assert good.exit_code == 0
    assert read_genesis(folder / "genesis.json").agreement == Agreement(5, 20, 2)
