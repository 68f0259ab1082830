"""What the `tallystick` command runs first, and what Ctrl-C does before there is anything to finish."""

import signal


def main() -> None:
    """Runs the command."""
    stop_at_once()
    from tallystick.cli import main as commands

    commands.main()


def stop_at_once() -> None:
    """Ctrl-C ends this process without a word, until somebody says otherwise: for as long as modules are imported and
    nothing has begun. A `KeyboardInterrupt` in the middle of an import shows a traceback, or is lost in whatever
    catches it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and is not ignored, as behind nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
