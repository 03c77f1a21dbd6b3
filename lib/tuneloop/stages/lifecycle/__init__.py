"""The life of a stage's process: its context, heartbeat, stop signals, failures and records."""
