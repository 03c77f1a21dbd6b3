"""The logs of a run: from the archive and from the backend, merged by time."""
