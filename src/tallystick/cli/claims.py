"""`tallystick claim`, `resolve` and `export`: to whom a proven model belongs, and telling other tools."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tallystick.cli.network import JOIN, JOIN_ALL
from tallystick.cli.output import JSON, errors, fail, print_json, say
from tallystick.cli.proofs import NONCE_BYTES
from tallystick.errors import Refused

if TYPE_CHECKING:
    from tallystick.proof.ownership import Claim, Place

EXIT_UNDECIDED = 1


def claim(
    proof: Path = typer.Argument(help="Proof directory; with --commitment, one whose training has only begun."),
    key: Path = typer.Option(..., "--key", help="Your key file; its account pays."),
    join: list[str] = JOIN,
    commitment: bool = typer.Option(False, "--commitment", help="Anchor what you committed to before training."),
    json: bool = JSON,
) -> None:
    """Anchor a proof's digest in the ledger, which shows from then on that you had it at that time.

    Claim before you publish: whoever has a proof in hand can train along it and claim the same model.

    Example: tallystick claim digits-proof --key net/client/key --join http://127.0.0.1:26651
    """
    from tallystick.canon.identity import load_key
    from tallystick.ledger.transactions import Anchor
    from tallystick.network.dial import Sender, Validators

    digest = _commitment(proof) if commitment else _signature(proof)
    with Validators(join) as validators:
        try:
            Sender(load_key(key), validators, say).send(Anchor(digest))
        except Refused as refused:
            if refused.code != "already_anchored":
                raise
            say(f"it is anchored already, and that counts: {refused.reason}")
        view, chain = validators.anchor(digest), validators.status().chain
    if view is None:
        fail(f"{digest}: was accepted, but that validator does not know it yet; ask again with `tallystick resolve`")
    if json:
        print_json({"chain": chain, "anchor": view})
    else:
        typer.echo(f"{digest}\n  anchored in block {view.height} of {chain}, by {view.identity}")


def resolve(
    first: Path = typer.Argument(help="Proof directory of one party."),
    second: Path = typer.Argument(help="Proof directory of the other."),
    join: list[str] = JOIN_ALL,
    full: bool = typer.Option(False, "--full", help="Re-execute every segment of both, not a sample."),
    json: bool = JSON,
) -> None:
    """Settle who trained first when two parties claim one model, and say why.

    Both proofs are verified. Of two that hold, the one whose digest was anchored first wins. All named validators are
    asked, and must agree.

    Exit status: 0 settled, 1 undecided.

    Example: tallystick resolve mine theirs --join http://127.0.0.1:26651 --join http://127.0.0.1:26653
    """
    from tallystick.network.running import one_torch_thread
    from tallystick.proof.ownership import settle

    one_torch_thread()
    settlement = settle(_claim(first, join, full), _claim(second, join, full))
    if json:
        print_json(settlement)
    else:
        winner = {"first": first, "second": second, None: "undecided"}[settlement.winner]
        typer.echo(f"{winner} [{settlement.code}]")
        for reason in settlement.reasons:
            typer.echo(f"  {reason}")
    sys.exit(0 if settlement.winner else EXIT_UNDECIDED)


def export(
    proof: Path = typer.Argument(help="Proof directory."),
    out: Path = typer.Argument(help="Folder for model, signature and statement; must not exist or be empty."),
    key: Path = typer.Option(
        ...,
        "--key",
        help="PEM file with an elliptic-curve key, such as `openssl ecparam -name prime256v1 -genkey -noout` makes.",
    ),
    name: str = typer.Option("model", "--name", help="What the model is called in both statements."),
) -> None:
    """Write a proven model with an OpenSSF model signature and an in-toto statement about its training.

    OUT gets `model/model.safetensors`, `model.sig`, which `model_signing verify key` checks, `training.intoto.json`,
    and `signer.pem`, the public key.

    Example: tallystick export digits-proof digits-release --key release.pem
    """
    from tallystick.proof.directory import Places
    from tallystick.proof.release import write_release

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        fail(f"{out}: is there already; name another folder")
    try:
        pem = key.read_bytes()
    except OSError as error:
        fail(f"{key}: {error.strerror}; make one with `openssl ecparam -name prime256v1 -genkey -noout -out {key}`")
    write_release(Places(proof), out, pem, name)
    errors.print(
        f"check it with: model_signing verify key {out}/model --signature {out}/model.sig "
        f"--public_key {out}/signer.pem",
        soft_wrap=True,
    )


def check_release(
    release: Path = typer.Argument(help="Folder that `tallystick export` wrote."),
    proof: Path = typer.Argument(help="Proof directory that it is said to come from."),
    key: Path = typer.Option(..., "--key", help="PEM file with the publisher's public key, from a source you trust."),
) -> None:
    """Check that a published model is, bit for bit, the one that a proof ends in, and that its publisher says so.

    The proof itself is authenticated, not verified: `tallystick verify` does that.

    Exit status: 0 they belong together, 1 they do not or could not be checked.

    Example: tallystick check-release digits-release digits-proof --key publisher.pem
    """
    from tallystick.proof.directory import Places, open_proof
    from tallystick.proof.release import check_release

    if not release.is_dir():
        fail(f"{release}: is not a folder that `tallystick export` wrote")
    try:
        pem = key.read_bytes()
    except OSError as error:
        fail(f"{key}: {error.strerror}")
    places = Places(proof)
    name = check_release(release, places, pem)
    typer.echo(f"{name}: is the model that the proof {open_proof(places).signature} ends in, and signed as such")


def _claim(path: Path, join: list[str], full: bool) -> "Claim":
    """What one party's proof shows, verified here, and where it stands in the ledger."""
    import secrets

    from tallystick.canon.hashing import blob_name
    from tallystick.proof.directory import Places, open_proof
    from tallystick.proof.ownership import Claim
    from tallystick.proof.policy import FULL, Sample
    from tallystick.proof.verify import How, verify

    places = Places(path)
    proof = open_proof(places)
    anchored, committed = _place(proof.signature, join), _place(blob_name(proof.sealed), join)
    verdict = verify(places, How(FULL if full else Sample(secrets.token_bytes(NONCE_BYTES))))
    say(f"{path}: {verdict.reason}")
    parent = proof.commitment.parent
    return Claim(
        proof=proof.signature,
        prover=proof.prover,
        model=proof.statement.model,
        parent=parent.signature if parent else None,
        outcome=verdict.outcome,
        anchored=anchored,
        committed=committed,
    )


def _place(digest: str, join: list[str]) -> "Place | None":
    """Where all the named validators say that `digest` stands."""
    from tallystick.network.dial import Validators
    from tallystick.proof.ownership import Place

    found = []
    for url in join:
        with Validators([url]) as validators:
            view = validators.anchor(digest)
            found.append(Place(validators.status().chain, view.height, view.time_ms, view.number) if view else None)
    if any(place != found[0] for place in found):
        fail(f"{digest}: the named validators do not agree where it is anchored: {found}; ask again, or ask others")
    return found[0]


def _signature(path: Path) -> str:
    from tallystick.proof.directory import Places, open_proof

    return open_proof(Places(path)).signature


def _commitment(path: Path) -> str:
    from tallystick.canon.hashing import blob_name
    from tallystick.proof import files, manifest
    from tallystick.proof.commitment import MAX_COMMITMENT_BYTES, open_commitment

    data = files.read(path, manifest.COMMITMENT, MAX_COMMITMENT_BYTES)
    open_commitment(data)
    return blob_name(data)
