"""`tallystick dispute` over the network: host and honest side as processes, and liars, silence and hostile bytes."""

import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from proof_samples import ATTACKER, PROVER, sample
from tallystick.canon.identity import Key, save_key
from tallystick.canon.sealed import seal
from tallystick.cli.main import app
from tallystick.demo.disputes import Insisting, lies_of
from tallystick.errors import Refused
from tallystick.network.disputes import wire
from tallystick.network.disputes.player import Channel, HostUnreachableError, Seat, play
from tallystick.network.tls import unpinned_client_context
from tallystick.proof.directory import Places, open_proof
from tallystick.proof.dispute import messages as m
from tallystick.proof.dispute.game import Game
from tallystick.proof.dispute.party import Party
from tallystick.proof.dispute.record import Agreed, Received, agreed_from, judged, line_of, moves_from, terms_of
from tallystick.proof.dispute.replay import Replay

REFEREE = Key.from_seed(b"r" * 32)
STRANGER = Key.from_seed(b"s" * 32)
LIAR_STEP = 5
PATIENCE = 30
COMMAND = (
    "import sys; from tallystick.cli.main import main; sys.argv[0] = 'tallystick'\n"
    "try: main()\n"
    "finally: sys.stderr.write('loaded:' + str([n for n in ('torch', 'numpy') if n in sys.modules]))"
)


@dataclass(frozen=True)
class Case:
    """Two proofs of one task: seat 0's is false, seat 1's true."""

    folder: Path
    honest: Path
    honest_key: Path
    truth: Replay
    liar: Replay

    def open(self, folder: Path, seconds: int) -> Path:
        options = ["--out", str(folder / "game"), "--seconds", str(seconds)]
        done = CliRunner().invoke(app, ["dispute", "open", str(self.folder / "liar"), str(self.honest), *options])
        assert done.exit_code == 0, done.output
        save_key(REFEREE, folder / "referee.key")
        return folder / "game"

    def terms(self, agreed: Agreed) -> Any:
        return terms_of(agreed, *((self.honest / name).read_bytes() for name in ("program.json", "spec.json")))

    def honest_party(self) -> Party:
        return Party(self.truth, 1)

    def seat(self, number: int, party: Party, agreed: Agreed) -> Seat:
        return Seat((ATTACKER, PROVER)[number], agreed, self.terms(agreed), party.answer)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("dispute")
    sample().write(folder / "honest")
    proof = open_proof(Places(folder / "honest"))
    program, spec = (json.loads((folder / "honest" / name).read_bytes()) for name in ("program.json", "spec.json"))
    truth = Replay(sample().training, program, spec, bytes.fromhex(proof.spec_name), sample().initial, 8)
    liar = truth.departing(lies_of("product", truth.step(LIAR_STEP)))
    sample().write(folder / "liar", key=ATTACKER, tamper=lambda step, *_: liar._advance(liar.state_at(step), step))
    save_key(PROVER, folder / "honest.key")
    return Case(folder, folder / "honest", folder / "honest.key", truth, liar)


@dataclass
class Hosting:
    """`tallystick dispute host` in a process of its own."""

    process: subprocess.Popen[str]
    address: tuple[str, int]

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", COMMAND, "dispute", *arguments]


@contextmanager
def hosting(game: Path, *options: str) -> Iterator[Hosting]:
    listen = ["--listen", "127.0.0.1:0", "--key", str(game.parent / "referee.key"), "--json", *options]
    process = subprocess.Popen(
        command("host", str(game), *listen), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"--join (127\.0\.0\.1):(\d+) --host ([0-9a-f]{64})", line)
        assert found is not None and found[3] == REFEREE.identity, line
        yield Hosting(process, (found[1], int(found[2])))
    finally:
        process.kill()
        process.communicate()


def playing(case: Case, host: Hosting) -> "subprocess.Popen[str]":
    join = ["--join", f"{host.address[0]}:{host.address[1]}", "--host", REFEREE.identity]
    return subprocess.Popen(
        command("play", str(case.honest), *join, "--key", str(case.honest_key)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def unseen(game: Game) -> None:
    return None


def play_here(case: Case, number: int, party: Party, host: Hosting, told: Callable[[Game], None] = unseen) -> Game:
    return play(host.address, REFEREE.identity, lambda agreed: case.seat(number, party, agreed), told)


def outcome_on_file(game: Path) -> tuple[Any, Game]:
    """What `tallystick dispute referee` makes of the record, and the game as we judge it."""
    done = CliRunner().invoke(app, ["dispute", "referee", str(game), "--json"])
    agreed = agreed_from((game / "game.json").read_bytes())
    terms = terms_of(agreed, (game / "program.json").read_bytes(), (game / "spec.json").read_bytes())
    moves = moves_from((game / "moves.jsonl").read_bytes())
    return json.loads(done.stdout)["outcome"], judged(agreed, terms, moves, agreed.opened)


def test_a_liar_loses_over_the_network_as_it_does_on_file(case: Case, tmp_path: Path) -> None:
    game = case.open(tmp_path, 600)
    with hosting(game) as host:
        side = playing(case, host)
        seen = play_here(case, 0, Insisting(case.liar, 0), host)
        code, out, err = host.end()
        said, errors = side.communicate(timeout=PATIENCE)
    assert (code, side.returncode) == (0, 0), err + errors
    assert "loaded:[]" in err  # the host needs neither torch nor NumPy
    outcome = json.loads(out)["outcome"]
    assert (outcome["losers"], outcome["code"]) == ([0], "wrong_sum")
    filed, replayed = outcome_on_file(game)
    assert filed == outcome and replayed.outcome == seen.outcome
    assert outcome["reason"] in said and "seat 0" in said
    # The record has the very moves that the same two sides write to a message file.
    parties = [Insisting(case.liar, 0), case.honest_party()]
    agreed = agreed_from((game / "game.json").read_bytes())
    moves = moves_from((game / "moves.jsonl").read_bytes())
    for count in range(0, len(moves), 2):
        at = judged(agreed, case.terms(agreed), moves[:count], agreed.opened)
        answers = {seat: answer for seat in (0, 1) if (answer := parties[seat].answer(at)) is not None}
        expected = {
            m.sealed_move((ATTACKER, PROVER)[seat], m.Move(at.terms.name, at.round, seat, answer))
            for seat, answer in answers.items()
        }
        if len(expected) < 2:
            break  # from here on one side alone is asked
        assert {received.move for received in moves[count : count + 2]} == expected


def test_the_silent_side_loses_and_the_other_is_told(case: Case, tmp_path: Path) -> None:
    """Seat 1 has answered before the host starts, so that no slow machine makes it the silent one."""
    game = case.open(tmp_path, 4)
    agreed = agreed_from((game / "game.json").read_bytes())
    honest = case.honest_party()
    answer = honest.answer(judged(agreed, case.terms(agreed), [], agreed.opened))
    assert answer is not None
    move = m.sealed_move(PROVER, m.Move(case.terms(agreed).name, 0, 1, answer))
    (game / "moves.jsonl").write_bytes(line_of(Received(agreed.opened, move)))
    with hosting(game) as host, seated(case, host, ATTACKER):  # is there, and says nothing
        seen = play_here(case, 1, honest, host)
        code, out, err = host.end()
    assert code == 0, err
    outcome = json.loads(out)["outcome"]
    assert (outcome["losers"], outcome["code"]) == ([0], "silent")
    assert seen.outcome is not None and seen.outcome.losers == (0,)
    assert outcome_on_file(game)[0] == outcome


def seated(case: Case, host: Hosting, key: Key = PROVER) -> Channel:
    channel = Channel(host.address, REFEREE.identity)
    greeting = channel.news()
    assert isinstance(greeting, wire.Greeting)
    channel.send(wire.sealed_seating(key, case.terms(greeting.agreed), REFEREE.identity, greeting.nonce))
    return channel


def refused(code: str, channel: Channel) -> None:
    with channel, pytest.raises(Refused, match=code):
        while True:
            channel.news(PATIENCE)


def garbage(case: Case, host: Hosting) -> None:
    """Frames that nobody signed."""
    channel = seated(case, host)
    channel.send(b"\x00" * 200)
    refused("bad_signature", channel)


def oversize(case: Case, host: Hosting) -> None:
    """A length that no frame may have; its bytes never come, and are not waited for."""
    channel = seated(case, host)
    channel._tls.sendall((2**32 - 1).to_bytes(4))
    refused("too_large", channel)


def oversize_stranger(case: Case, host: Hosting) -> None:
    channel = Channel(host.address, REFEREE.identity)
    channel._tls.sendall((wire.MAX_SEATING_BYTES + 1).to_bytes(4))
    refused("too_large", channel)


def stranger(case: Case, host: Hosting) -> None:
    """A key that has no seat."""
    refused("no_seat", seated(case, host, STRANGER))


def copied_seating(case: Case, host: Hosting) -> None:
    """What a seat has signed for one channel opens no other."""
    with Channel(host.address, REFEREE.identity) as first, Channel(host.address, REFEREE.identity) as second:
        greeting = first.news()
        assert isinstance(greeting, wire.Greeting)
        second.send(wire.sealed_seating(PROVER, case.terms(greeting.agreed), REFEREE.identity, greeting.nonce))
        refused("wrong_seating", second)


def tiresome(case: Case, host: Hosting) -> None:
    """Signed moves for a round that is not there."""
    channel = seated(case, host)
    agreed = greeting_of(host).agreed
    move = m.sealed_move(PROVER, m.Move(case.terms(agreed).name, 7, 1, m.Nodes([])))
    for _ in range(20):
        try:
            channel.send(move)
        except OSError:
            break
    refused("unasked", channel)


def old_tls(case: Case, host: Hosting) -> None:
    context = unpinned_client_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(host.address, timeout=PATIENCE) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain)


def greeting_of(host: Hosting) -> wire.Greeting:
    with Channel(host.address, REFEREE.identity) as channel:
        greeting = channel.news()
        assert isinstance(greeting, wire.Greeting)
        return greeting


def test_hostile_bytes_are_refused_with_a_reason_and_change_nothing(case: Case, tmp_path: Path) -> None:
    game = case.open(tmp_path, 600)
    with hosting(game) as host:
        for attack in (garbage, oversize, oversize_stranger, stranger, copied_seating, tiresome, old_tls):
            attack(case, host)
        assert (game / "moves.jsonl").read_bytes() == b""
        side = playing(case, host)
        play_here(case, 0, Insisting(case.liar, 0), host)
        assert host.end()[0] == 0 and side.wait(PATIENCE) == 0
        side.communicate()
    assert outcome_on_file(game)[0]["code"] == "wrong_sum"


def test_a_signed_move_that_cannot_be_read_loses(case: Case, tmp_path: Path) -> None:
    game = case.open(tmp_path, 600)
    with hosting(game) as host:
        with seated(case, host, ATTACKER) as channel:
            channel.send(seal(ATTACKER, m.DOMAIN, b"{}"))
            news = [channel.news(), channel.news()]
        assert isinstance(news[1], wire.Ended)
        code, out, _ = host.end()
    assert code == 0 and json.loads(out)["outcome"]["code"] == "malformed"
    assert outcome_on_file(game)[0] == json.loads(out)["outcome"]


def test_a_host_of_another_key_is_not_played_with(case: Case, tmp_path: Path) -> None:
    game = case.open(tmp_path, 600)
    with hosting(game) as host, pytest.raises(Refused, match="bad_certificate"):
        play(host.address, STRANGER.identity, lambda agreed: pytest.fail("was greeted"), unseen)


def test_a_host_that_was_killed_goes_on_from_its_record(case: Case, tmp_path: Path) -> None:
    """SIGKILL in the middle of the game, with half a line in the record; the sides dial in again and nobody loses."""
    game = case.open(tmp_path, 600)
    seen: list[Game] = []
    with hosting(game) as host:
        address = f"{host.address[0]}:{host.address[1]}"
        side = playing(case, host)

        def told(now: Game) -> None:
            if now.round == 3:  # once more after the host is back, which does no harm to a process that is gone
                host.process.kill()

        def lie() -> None:
            seen.append(play_here(case, 0, Insisting(case.liar, 0), host, told))

        liar = threading.Thread(target=lie, daemon=True)
        liar.start()
        host.process.wait(PATIENCE)
    with (game / "moves.jsonl").open("ab") as file:
        file.write(b'{"at":17')
    with hosting(game, "--listen", address) as again:
        code, out, err = again.end()
        liar.join(PATIENCE)
        said, errors = side.communicate(timeout=PATIENCE)
    assert (code, side.returncode) == (0, 0), err + errors + said
    assert json.loads(out)["outcome"]["code"] == "wrong_sum" and seen[0].outcome is not None
    assert outcome_on_file(game)[0] == json.loads(out)["outcome"]


def test_ctrl_c_ends_both_ends_without_a_traceback(case: Case, tmp_path: Path) -> None:
    game = case.open(tmp_path, 600)
    with hosting(game) as host:
        side = playing(case, host)
        assert side.stdout is not None and side.stdout.readline().startswith("round 0")
        for process in (side, host.process):
            process.send_signal(signal.SIGINT)
        _, _, err = host.end()
        _, errors = side.communicate(timeout=PATIENCE)
    assert (host.process.returncode, side.returncode) == (130, 130)
    assert "Traceback" not in err + errors and "goes on with" in err


def test_two_hosts_do_not_keep_one_record(case: Case, tmp_path: Path) -> None:
    game = case.open(tmp_path, 600)
    with hosting(game):
        done = subprocess.run(
            command("host", str(game), "--listen", "127.0.0.1:0", "--key", str(tmp_path / "referee.key")),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1 and "another process hosts this game" in done.stderr


def test_nobody_listening_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()[:2]
    with pytest.raises(HostUnreachableError, match="dispute host"):
        play(address, REFEREE.identity, lambda agreed: pytest.fail("was greeted"), unseen)
