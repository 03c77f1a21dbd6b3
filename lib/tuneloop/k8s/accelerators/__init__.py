"""The accelerator table and the machine shapes that are derived from it."""
