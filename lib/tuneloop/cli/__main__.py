"""`python -m tuneloop.cli`: the same as `tuneloop`."""

from tuneloop.cli import main

main()
