"""Many runs: list, show, compare and delete them, and collect what no run needs."""
