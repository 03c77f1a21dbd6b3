"""The environment variables of tuneloop: their meanings, units, defaults and checks."""
