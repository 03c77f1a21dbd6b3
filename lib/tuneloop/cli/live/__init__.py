"""Output that grows while a command runs: logs and progress."""
