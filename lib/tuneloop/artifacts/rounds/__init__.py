"""The files of rounds, besides those of their runs."""
