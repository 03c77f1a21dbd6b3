"""Compile the training step ahead of time for chips that this machine does not have."""
