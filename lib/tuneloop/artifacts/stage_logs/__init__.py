"""Log lines of stages: timestamps, de-duplication, and the archive beside the stage's records."""
