"""The order of the rooms (docs/architecture.md) as a test: a room imports only from rooms above it."""

import ast
from pathlib import Path

import pytest

import tallystick

ROOT = Path(tallystick.__file__).parent
ROOMS = ["errors", "canon", "exact", "program", "proof", "ledger", "consensus", "network", "lab", "demo", "cli"]
TORCH_FREE = ["canon", "ledger", "consensus"]
PURE = ["canon", "exact", "program", "ledger", "consensus"]
IMPURE_MODULES = {"time", "random", "socket", "asyncio", "threading", "subprocess", "secrets", "datetime", "uuid"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def modules(room: str) -> list[Path]:
    return [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").exists() else sorted((ROOT / room).rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_module_is_in_a_room() -> None:
    names = {path.stem if path.is_file() else path.name for path in ROOT.iterdir()}
    assert names - {"__init__", "__pycache__", "py"} <= set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_above_it(room: str) -> None:
    below = ROOMS[ROOMS.index(room) + 1 :]
    for path in modules(room):
        for name in imports(path):
            parts = name.split(".")
            assert parts[0] != "tallystick" or len(parts) < 2 or parts[1] not in below, f"{path}: imports {name}"


@pytest.mark.parametrize("room", ["ledger", "consensus"])
def test_ledger_and_consensus_stand_on_canonical_bytes_alone(room: str) -> None:
    allowed = {"errors", "canon", room}
    for path in modules(room):
        rooms = {name.split(".")[1] for name in imports(path) if name.startswith("tallystick.")}
        assert rooms <= allowed, f"{path}: imports {rooms - allowed}"


@pytest.mark.parametrize("room", TORCH_FREE)
def test_rooms_that_need_no_tensors_do_not_import_torch(room: str) -> None:
    for path in modules(room):
        assert not any(name.split(".")[0] in {"torch", "numpy", "safetensors"} for name in imports(path)), path


@pytest.mark.parametrize("room", PURE)
def test_the_core_reads_no_clock_and_opens_no_socket(room: str) -> None:
    for path in modules(room):
        assert not {name.split(".")[0] for name in imports(path)} & IMPURE_MODULES, path


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_unpickles_or_evaluates(room: str) -> None:
    for path in modules(room):
        assert not {name.split(".")[0] for name in imports(path)} & {"pickle", "marshal", "shelve", "yaml"}, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in FORBIDDEN_CALLS | {"torch.load", "os.system"}, f"{path}: {called}"
