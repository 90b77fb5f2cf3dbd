"""How cost grows: with what changes, not with what exists. `python -m tests.scale` measures it and prints a table."""
