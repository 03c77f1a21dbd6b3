"""Convert datasets of other tools to eval sets."""
