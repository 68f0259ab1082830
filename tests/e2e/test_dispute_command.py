"""`tallystick dispute` over a message file: a game between two sides, and a referee without torch."""

import json
import subprocess
import sys
import time
from pathlib import Path

from dispute_samples import AT, KEYS, honest, liar, sample
from tallystick.canon.encoding import to_json
from tallystick.canon.hashing import blob_name
from tallystick.demo.disputes import Insisting
from tallystick.program.graph import encode_program
from tallystick.program.spec import encode_spec
from tallystick.proof.dispute import messages as m
from tallystick.proof.dispute.party import Party
from tallystick.proof.dispute.record import Agreed, Received, judged, line_of, moves_from, terms_of

REFEREE = (
    "import sys; from tallystick.cli.main import app\n"
    "try: app(['dispute', 'referee', *sys.argv[1:]])\n"
    "finally: sys.stderr.write(str([n for n in ('torch', 'numpy') if n in sys.modules]))"
)


def referee(game: Path, *options: str) -> tuple[int, dict[str, object], str]:
    command = [sys.executable, "-c", REFEREE, str(game), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout), done.stderr


def opened(folder: Path) -> tuple[Agreed, list[Party]]:
    product = next(n for n in range(honest().step(AT).count) if honest().step(AT).line(n).rule == "product")
    parties = [Insisting(liar({product: 0}), 0), Party(honest(), 1)]
    spec, program = encode_spec(sample().training.spec), encode_program(sample().training.program)
    roots = (parties[0].run.entries[-1].state.hex(), parties[1].run.entries[-1].state.hex())
    agreed = Agreed(
        "tallystick-dispute-v1", blob_name(spec), 20, roots, (KEYS[0].identity, KEYS[1].identity), 60, int(time.time())
    )
    for name, data in (("game.json", to_json(agreed)), ("spec.json", spec), ("program.json", program)):
        (folder / name).write_bytes(data)
    (folder / "moves.jsonl").write_bytes(b"")
    return agreed, parties


def test_a_game_over_a_file_is_judged_without_torch(tmp_path: Path) -> None:
    agreed, parties = opened(tmp_path)
    terms = terms_of(agreed, (tmp_path / "program.json").read_bytes(), (tmp_path / "spec.json").read_bytes())
    code, facts, modules = referee(tmp_path)
    assert (code, facts["waiting"], modules) == (3, [0, 1], "[]")
    while True:
        game = judged(agreed, terms, moves_from((tmp_path / "moves.jsonl").read_bytes()), agreed.opened)
        if game.outcome is not None:
            break
        for party in parties:
            answer = party.answer(game)
            if answer is not None:
                move = m.sealed_move(KEYS[party.seat], m.Move(terms.name, game.round, party.seat, answer))
                with (tmp_path / "moves.jsonl").open("ab") as file:
                    file.write(line_of(Received(agreed.opened, move)))
    code, facts, modules = referee(tmp_path)
    assert code == 0 and modules == "[]"
    outcome = facts["outcome"]
    assert isinstance(outcome, dict) and (outcome["losers"], outcome["code"]) == ([0], "wrong_sum")


def test_the_side_that_does_not_answer_in_time_loses(tmp_path: Path) -> None:
    agreed, parties = opened(tmp_path)
    terms = terms_of(agreed, (tmp_path / "program.json").read_bytes(), (tmp_path / "spec.json").read_bytes())
    game = judged(agreed, terms, [], agreed.opened)
    answer = parties[1].answer(game)
    assert answer is not None
    move = m.sealed_move(KEYS[1], m.Move(terms.name, 0, 1, answer))
    (tmp_path / "moves.jsonl").write_bytes(line_of(Received(agreed.opened, move)))
    code, facts, _ = referee(tmp_path, "--now", str(agreed.opened + 60))
    assert (code, facts["outcome"]) == (3, None)
    code, facts, _ = referee(tmp_path, "--now", str(agreed.opened + 61))
    outcome = facts["outcome"]
    assert code == 0 and isinstance(outcome, dict) and (outcome["losers"], outcome["code"]) == ([0], "silent")
