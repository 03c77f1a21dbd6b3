"""The demo: generated traces and the whole loop on this machine."""
