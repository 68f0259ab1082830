"""The `tallystick` command. A command reads its arguments, calls one room and shows the result."""
