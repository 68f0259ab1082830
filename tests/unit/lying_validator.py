"""A validator's HTTP face that says whatever a test wants, over real sockets."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from pbft_cluster import FOUR, KEYS, block_at, certify, content_of, identities, stable_proof

from tallystick.canon.hashing import blob_name
from tallystick.consensus.pbft import Group
from tallystick.ledger.transactions import Deposit, sign_transaction
from tallystick.network import views
from tallystick.network.dial import Validators
from tallystick.network.views import BlockView, Checkpoints, Failure, TransactionView

LATER = FOUR.successor(4, identities([1, 2, 3, 4]))
"""The validators after block 4: 0 has left and 4 has come."""
CHANGE = stable_proof(FOUR, content_of(FOUR, 4, validators=(1, 2, 3, 4)), (0, 1, 2))
STABLE = stable_proof(LATER, content_of(LATER, 8), (1, 2, 4))
PAY = [sign_transaction(KEYS[9], FOUR.chain, nonce, Deposit(nonce)) for nonce in range(1, 25)]


def group_at(height: int) -> Group:
    return FOUR if height <= 4 else LATER


def certified(height: int, *transactions: bytes, by: tuple[int, ...] = (1, 2, 3), **options: Any) -> BlockView:
    block = block_at(height, *transactions)
    return BlockView(block, certify(options.pop("group", group_at(height)), block, by, height=height, **options))


@dataclass
class World:
    """What a validator says, each part of which a test may make a lie."""

    blocks: dict[int, BlockView] = field(default_factory=dict)
    checkpoints: Callable[[int], Checkpoints] = lambda start: Checkpoints([CHANGE][start:], STABLE)
    where: dict[str, int] = field(default_factory=dict)
    raw: dict[str, bytes] = field(default_factory=dict)
    """Replies to whole paths, before all else."""
    asked: list[str] = field(default_factory=list)
    chain: str = FOUR.chain
    height: int = 10
    most: int = 4
    """Blocks in one reply."""

    def page(self, start: int) -> list[BlockView]:
        return [block for height, block in sorted(self.blocks.items()) if height >= start][: self.most]

    def reply(self, path: str) -> tuple[int, bytes]:
        self.asked.append(path)
        if path in self.raw:
            return 200, self.raw[path]
        if path == "/v1/status":
            return 200, msgspec.json.encode(views.Status(self.chain, "", "", self.height, 0, 0, "", 0, 0, {}))
        if path.startswith("/v1/blocks?start="):
            return 200, msgspec.json.encode(views.Blocks(self.page(int(path.rpartition("=")[2]))))
        what, _, rest = path.removeprefix("/v1/").partition("/" if "?" not in path else "?start=")
        if what == "transactions" and rest in self.where:
            return 200, msgspec.json.encode(TransactionView(rest, self.where[rest], "ok", ""))
        if what == "blocks" and int(rest) in self.blocks:
            return 200, msgspec.json.encode(self.blocks[int(rest)])
        if what == "history":
            return 200, msgspec.json.encode(self.checkpoints(int(rest)))
        code = {"transactions": "no_such_transaction", "blocks": "no_such_block"}[what]
        return 404, msgspec.json.encode(Failure(code, f"{path}: not here"))


def honest_world() -> World:
    """Ten blocks of two transactions; the validators changed after the fourth, and the eighth is stable."""
    world = World()
    for height in range(1, 11):
        pair = PAY[2 * height - 2 : 2 * height]
        world.blocks[height] = certified(height, *pair)
        world.where[blob_name(pair[1])] = height
    return world


@contextmanager
def listening(world: World) -> Iterator[str]:
    """The URL of a server that gives `world`'s replies."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = world.reply(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except ConnectionError:
                return  # the client has read enough

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *arguments: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serving(world: World) -> Iterator[Validators]:
    """Dials such a server."""
    with listening(world) as url, Validators([url]) as dialed:
        yield dialed
