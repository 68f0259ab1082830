"""What the demonstration knows of the network, built up from the ledger's events."""

from dataclasses import dataclass, field

from tallystick.ledger import events as e
from tallystick.ledger.transactions import OpenTask
from tallystick.network.local import LocalNetwork
from tallystick.program.training import mean_loss


@dataclass(frozen=True)
class Caught:
    worker: str
    reason: str
    height: int
    step: int
    amount: int
    burned: int
    finders: tuple[str, ...]


@dataclass
class Board:
    """Everything by the members' names, not their identities."""

    names: dict[str, str]
    micro_batches: int
    steps: int
    step: int = 0
    height: int = 0
    loss: float | None = None
    standings: dict[str, str] = field(default_factory=dict)
    """Worker to `working`, `caught`, `late` or `gone`."""
    caught: list[Caught] = field(default_factory=list)
    payouts: dict[str, int] = field(default_factory=dict)
    returned: int | None = None
    """What came back to the client when the task was done."""
    expired: bool = False
    notes: list[str] = field(default_factory=list)
    """What happened, in words, oldest first."""

    @property
    def finished(self) -> bool:
        return self.returned is not None or self.expired

    def see(self, height: int, event: e.Event) -> None:
        """Takes in one event of the ledger."""
        self.height = max(self.height, height)
        match event:
            case e.Enrolled():
                self.standings[self._name(event.worker)] = "working"
            case e.RoundFinal():
                self.step, self.loss = event.step + 1, mean_loss(event.loss, self.micro_batches)
            case e.Slashed():
                self._see_slashed(height, event)
            case e.Suspended():
                name = self._name(event.worker)
                if self.standings.get(name) == "working":
                    self.standings[name] = "late"
                self.note(f"{name} missed a deadline ({event.reason}); its work goes to others")
            case e.Paid():
                name = self._name(event.party)
                self.payouts[name] = self.payouts.get(name, 0) + event.amount
            case e.TaskDone():
                self.returned = event.returned
            case e.TaskExpired():
                self.expired = True
            case _:
                pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    def _see_slashed(self, height: int, event: e.Slashed) -> None:
        name = self._name(event.party)
        finders = tuple(self._name(finder) for finder in event.finders)
        entry = Caught(name, event.reason, height, event.step, event.amount, event.burned, finders)
        self.caught.append(entry)
        self.standings[name] = "caught"
        found = " and ".join(finders) or "the ledger"
        self.note(f"{name} caught by {found} at height {height}: {event.reason}; {event.amount} slashed")

    def _name(self, identity: str) -> str:
        return self.names.get(identity, identity[:12])


def new_board(network: LocalNetwork, offer: OpenTask) -> Board:
    members = (*network.validators, *network.workers, network.client)
    return Board({m.identity: m.name for m in members}, offer.micro_batches, offer.steps)
