"""`tallystick dispute`: two parties, one result too many, and a referee who computes one element."""

import functools
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from tallystick.cli.output import errors, fail, print_json, say

if TYPE_CHECKING:
    from tallystick.canon.identity import Key
    from tallystick.proof.directory import Proof
    from tallystick.proof.dispute.game import Game
    from tallystick.proof.dispute.record import Agreed, Received

dispute = typer.Typer(
    help="Settle which of two results of one training is wrong, without running the training.", no_args_is_help=True
)
GAME, MOVES, PROGRAM, SPEC = "game.json", "moves.jsonl", "program.json", "spec.json"
AS_JSON = typer.Option(False, "--json", help="Print the result as JSON.")


@dispute.command("open")
def open_game(
    first: Path = typer.Argument(help="Proof directory of seat 0."),
    second: Path = typer.Argument(help="Proof directory of seat 1."),
    out: Path = typer.Option(Path("dispute"), "--out", help="New directory for the game."),
    seconds: int = typer.Option(3600, min=1, help="How long each side has in a round."),
) -> None:
    """Open a game about two signed proofs of the same task that end in different states.

    Example: tallystick dispute open proof-a proof-b --out dispute
    """
    from tallystick.canon.encoding import to_json
    from tallystick.proof.directory import Places, open_proof
    from tallystick.proof.dispute.record import Agreed, judged, terms_of

    proofs = [open_proof(Places(path)) for path in (first, second)]
    if proofs[0].spec_name != proofs[1].spec_name:
        fail(f"{second}: is of specification {proofs[1].spec_name}, {first} of {proofs[0].spec_name}; no game decides")
    agreed = Agreed(
        format="tallystick-dispute-v1",
        spec=proofs[0].spec_name,
        steps=proofs[0].spec.steps,
        roots=(proofs[0].statement.root, proofs[1].statement.root),
        identities=(proofs[0].prover, proofs[1].prover),
        seconds=seconds,
        opened=int(time.time()),
    )
    program, spec = _documents(first)
    judged(agreed, terms_of(agreed, program, spec), [], agreed.opened)  # refuses what is no dispute
    out.mkdir(parents=True)
    for name, data in ((GAME, to_json(agreed)), (PROGRAM, program), (SPEC, spec), (MOVES, b"")):
        (out / name).write_bytes(data)
    typer.echo(
        f"opened {out}: each side now runs `tallystick dispute play PROOF --game {out} --key KEY`; "
        f"or you run `tallystick dispute host {out} --key KEY`, and each side dials in"
    )


@dispute.command()
def play(
    proof: Path = typer.Argument(help="Your proof directory, with initial state and records."),
    key: Path = typer.Option(help="The key file that signed the proof."),
    game: Path = typer.Option(Path("dispute"), "--game", help="Directory of the game, shared with the other side."),
    wait: int = typer.Option(0, min=0, help="Go on for so many seconds, answering whenever it is your turn."),
    join: str | None = typer.Option(None, "--join", help="HOST:PORT of `tallystick dispute host`; needs no --game."),
    host: str | None = typer.Option(None, "--host", help="The identity that the host has to show, 64 hex digits."),
    data: Path | None = typer.Option(None, "--data", help="File with the training records, if not in the proof."),
) -> None:
    """Answer what the game asks of you. Your run is computed again first, which takes as long as the training.

    With --join you stay until the game is over; if you stop, the same command goes on.

    Exit status: 0 the game goes on or you did not lose it, 1 could not play, 2 you lost.

    Examples:
    tallystick dispute play proof-a --game dispute --key proof-a.key --wait 600
    tallystick dispute play proof-a --join referee.example:26700 --host 5f0e... --key proof-a.key
    """
    from tallystick.canon.identity import load_key
    from tallystick.network.running import one_torch_thread

    one_torch_thread()
    secret = load_key(key)
    if join is not None:
        if host is None:
            fail("--join: name the host's identity with --host; `tallystick dispute host` prints it")
        judged = _play_at(join, host, proof, data, secret)
    else:
        judged = _play_on_file(game, proof, data, secret, key, wait)
    if judged.outcome is not None:
        typer.echo(_sentence(judged))
        sys.exit(2 if judged.terms.identities.index(secret.identity) in judged.outcome.losers else 0)
    typer.echo(f"round {judged.round}: waiting for seat {' and '.join(map(str, judged.waiting))}")


@dispute.command()
def host(
    game: Path = typer.Argument(help="Directory of the game, as `tallystick dispute open` makes it."),
    key: Path = typer.Option(help="Your key file, by which the sides recognize you; `tallystick keygen` makes one."),
    listen: str = typer.Option("127.0.0.1:26700", "--listen", help="HOST:PORT where the sides dial in."),
    json: bool = AS_JSON,
) -> None:
    """Be the referee of a game whose sides dial in: keep its record, watch the deadlines, and judge.

    Ends with the game. If you stop, the same command goes on where the record ends; deadlines run on.

    Exit status: 0 decided, 1 could not host, 3 nobody has lost.

    Example: tallystick dispute host dispute --key referee.key --listen 0.0.0.0:26700
    """
    import asyncio

    from tallystick.canon.identity import load_key
    from tallystick.network.disputes.host import Host
    from tallystick.network.peers import listen_on
    from tallystick.proof.dispute.record import terms_of

    def told(current: "Game") -> None:
        say(_sentence(current))

    secret, agreed = load_key(key), _agreed(game)
    listening = listen_on(listen)

    async def run() -> "Game":
        there = Host(secret, agreed, terms_of(agreed, *_documents(game)), game / MOVES, told)
        address, port = listen.rpartition(":")[0], listening.getsockname()[1]
        say(
            f"each side now runs `tallystick dispute play PROOF --join {address}:{port} --host {secret.identity} "
            "--key KEY`"
        )
        return await there.run(listening)

    with listening:
        try:
            judged = asyncio.run(run())
        except KeyboardInterrupt:
            say(f"stopped; the same command goes on with {game}")
            raise
    if json:
        print_json(_facts(judged))
    else:
        typer.echo(_sentence(judged))
    sys.exit(0 if judged.outcome is not None and judged.outcome.losers else 3)


@dispute.command()
def referee(
    game: Path = typer.Argument(help="Directory of the game."),
    now: int | None = typer.Option(None, help="Seconds since 1970 for deadlines; by default the clock."),
    json: bool = AS_JSON,
) -> None:
    """Judge a game from its files, without torch and without the model.

    Exit status: 0 decided, 3 the game goes on or says nothing about either side.

    Example: tallystick dispute referee dispute
    """
    agreed = _agreed(game)
    began = time.perf_counter()
    judged = _judged(game, agreed, int(time.time()) if now is None else now)
    took = time.perf_counter() - began
    if json:
        print_json({**_facts(judged), "referee_ms": round(took * 1e3, 2)})
    else:
        typer.echo(_sentence(judged))
        errors.print(f"  {took * 1e3:.1f} ms")
    sys.exit(0 if judged.outcome is not None and judged.outcome.losers else 3)


@dispute.command()
def demo(
    task: Path = typer.Argument(Path("examples/digits/task.toml"), help="Task file whose training is disputed."),
    fault: str = typer.Option("product", help="What the liar lies about: product, sum, peak, element, update or data."),
    step: int | None = typer.Option(None, min=0, help="The step that it lies about; by default one three quarters in."),
    json: bool = AS_JSON,
) -> None:
    """Train twice, honestly and with a lie in one step, and play the dispute through.

    Example: tallystick dispute demo examples/digits/task.toml --fault product
    """
    import json as codec

    from tallystick.canon.hashing import blob_name
    from tallystick.demo.disputes import FAULTS, Insisting, agreed_by, lies_of
    from tallystick.demo.disputes import play as play_through
    from tallystick.network.running import one_torch_thread
    from tallystick.network.task_file import load_task_file, prepare_run
    from tallystick.program.spec import encode_spec
    from tallystick.proof.dispute.party import Party
    from tallystick.proof.dispute.replay import Replay

    one_torch_thread()
    if fault not in FAULTS:
        fail(f"--fault {fault}: choose one of {', '.join(FAULTS)}")
    run = prepare_run(task, load_task_file(task))
    spec = encode_spec(run.training.spec)
    steps = run.training.spec.steps
    at = steps * 3 // 4 if step is None else step
    if at >= steps:
        fail(f"--step {at}: the task has {steps} steps")
    errors.print(f"training {steps} steps, twice from step {at} on")
    names: tuple[Any, Any, bytes] = codec.loads(run.program), codec.loads(spec), bytes.fromhex(blob_name(spec))
    honest = Replay(run.training, *names, run.initial, steps)
    parties = [Insisting(honest.departing(lies_of(fault, honest.step(at))), 0), Party(honest, 1)]
    result = play_through(agreed_by(parties, spec), run.program, spec, parties)
    facts = {"rounds": result.rounds, "bytes": result.nbytes, "referee_ms": round(result.seconds * 1e3, 2)}
    if json:
        print_json(
            {**facts, "losers": result.outcome.losers, "code": result.outcome.code, "reason": result.outcome.reason}
        )
        return
    typer.echo(f"seat {result.outcome.losers[0]} lied about step {at} and lost: {result.outcome.reason}")
    typer.echo(f"  {result.rounds} rounds: {' '.join(name.lower() for name in result.phases)}")
    typer.echo(f"  {result.nbytes} bytes of messages, {facts['referee_ms']} ms for the referee")


def _agreed(game: Path) -> "Agreed":
    from tallystick.proof.dispute.record import MAX_GAME_BYTES, agreed_from

    return agreed_from(_read(game / GAME, MAX_GAME_BYTES))


def _judged(game: Path, agreed: "Agreed", now: int) -> "Game":
    from tallystick.proof.dispute.record import judged, terms_of

    return judged(agreed, terms_of(agreed, *_documents(game)), _moves(game), now)


def _documents(folder: Path) -> tuple[bytes, bytes]:
    """Program and specification, of a game or of a proof."""
    return _read(folder / PROGRAM, 16 * 2**20), _read(folder / SPEC, 2**20)


def _moves(game: Path) -> "list[Received]":
    from tallystick.proof.dispute.record import MAX_RECORD_BYTES, moves_from

    return moves_from(_read(game / MOVES, MAX_RECORD_BYTES))


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    if len(data) > limit:
        fail(f"{path}: is larger than {limit} bytes")
    return data


def _play_on_file(game: Path, path: Path, data: Path | None, secret: "Key", key: Path, wait: int) -> "Game":
    """Answers what a message file asks, for `wait` seconds."""
    from tallystick.proof.directory import Places, open_proof
    from tallystick.proof.dispute import messages as m
    from tallystick.proof.dispute.party import Party
    from tallystick.proof.dispute.record import Received, line_of
    from tallystick.proof.durable import append

    agreed = _agreed(game)
    if secret.identity not in agreed.identities:
        fail(f"{key}: is not the key of either side of {game}")
    seat = agreed.identities.index(secret.identity)
    party = Party(_run(open_proof(Places(path, data))), seat)
    until = time.time() + wait
    while True:
        now = int(time.time())
        current = _judged(game, agreed, now)
        answer = party.answer(current)
        if answer is not None:
            move = m.sealed_move(secret, m.Move(current.terms.name, current.round, seat, answer))
            append(game / MOVES, line_of(Received(now, move)))
            _say_answered(current)
        elif current.outcome is not None or time.time() >= until:
            return current
        else:
            time.sleep(0.2)


def _play_at(join: str, host: str, path: Path, data: Path | None, secret: "Key") -> "Game":
    """Plays at a host, to the end of the game."""
    from tallystick.canon.identity import parse_identity
    from tallystick.network.disputes.player import Seat
    from tallystick.network.disputes.player import play as play_at
    from tallystick.network.peers import split_address
    from tallystick.proof.directory import Places, open_proof
    from tallystick.proof.dispute.party import Party
    from tallystick.proof.dispute.record import terms_of

    try:
        address = split_address(join)
    except ValueError as error:
        fail(f"--join {join}: {error}")
    proof = open_proof(Places(path, data))
    documents = _documents(path)

    def take(agreed: "Agreed") -> Seat:
        if secret.identity not in agreed.identities:
            fail(f"{join}: the game there is between {' and '.join(agreed.identities)}, not {secret.identity}")
        seat = agreed.identities.index(secret.identity)
        reported = (proof.spec_name, proof.spec.steps, proof.statement.root)
        if (agreed.spec, agreed.steps, agreed.roots[seat]) != reported:
            fail(f"{join}: the game there is not about {path}, which ends in {proof.statement.root}")
        party = functools.cache(lambda: Party(_run(proof), seat))
        return Seat(secret, agreed, terms_of(agreed, *documents), lambda game: party().answer(game))

    return play_at(address, parse_identity(host, "--host"), take, _say_answered)


def _say_answered(game: "Game") -> None:
    typer.echo(f"round {game.round}: {type(game.phase).__name__.lower()}")


def _run(proof: "Proof") -> Any:
    """The training of a proof, run again."""
    import json as codec

    from tallystick.program.training import prepare_training
    from tallystick.proof import manifest
    from tallystick.proof.directory import read_records, read_state
    from tallystick.proof.dispute.replay import Replay

    program, spec = (codec.loads(data) for data in _documents(proof.places.proof))
    training = prepare_training(proof.spec, proof.program, read_records(proof, manifest.TRAIN))
    errors.print(f"{proof.places.proof}: running {proof.spec.steps} steps again")
    return Replay(training, program, spec, bytes.fromhex(proof.spec_name), read_state(proof, 0), proof.spec.steps)


def _facts(game: "Game") -> dict[str, Any]:
    outcome = game.outcome
    facts = {"losers": outcome.losers, "code": outcome.code, "reason": outcome.reason} if outcome else None
    return {"outcome": facts, "round": game.round, "waiting": game.waiting}


def _sentence(game: "Game") -> str:
    outcome = game.outcome
    if outcome is None:
        seats = " and ".join(map(str, game.waiting))
        return f"round {game.round}: waiting for seat {seats} until {game.deadline}"
    if not outcome.losers:
        return f"undecided after {game.round + 1} rounds: {outcome.reason} [{outcome.code}]"
    seats = " and ".join(f"seat {seat} ({game.terms.identities[seat][:12]})" for seat in outcome.losers)
    return f"lost after {game.round + 1} rounds: {seats}: {outcome.reason} [{outcome.code}]"
