"""The parts of the stage `score`."""
