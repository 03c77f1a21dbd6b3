"""The kinds of scorers: one file for each, and the table of them."""
