"""What goes wrong, as types that a caller can catch by intent.

Every refusal of somebody else's input carries a stable reason code, which tests, counters and programs key on,
and one line for people that says what, where, why and the way out.
"""


class TallystickError(Exception):
    """Base of every error that this package raises on purpose."""


class Refused(TallystickError):
    """Input from outside that the rules do not admit.

    Args:
        code: stable, lower_snake_case, never reworded: `bad_signature`, `too_large`, ...
        reason: one line for a person.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{reason} [{code}]")
        self.code = code
        self.reason = reason


class NonFiniteError(TallystickError):
    """An exact kernel met an infinity or a NaN where its result would not be defined."""
