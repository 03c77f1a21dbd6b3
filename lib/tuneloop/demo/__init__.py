"""The demo: the whole loop on this machine with generated traces."""
