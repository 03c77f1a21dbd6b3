"""Checks of rendered objects before they are submitted: offline, and against the API server."""
