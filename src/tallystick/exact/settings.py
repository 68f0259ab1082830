"""Environment variables that choose how, never what, is computed."""

import os
from collections.abc import Collection

from tallystick.errors import TallystickError


class SettingError(TallystickError):
    """An environment variable holds something that it cannot mean."""


def setting(name: str, admitted: Collection[str], default: str) -> str:
    """The value of the environment variable `name`; an empty one counts as unset.

    Raises:
        SettingError: it is none of those admitted.
    """
    value = os.environ.get(name) or default
    if value not in admitted:
        raise SettingError(f"{name}={value}: there is {', '.join(admitted)}; unset it or use one of these")
    return value
