"""The table of accelerators and the shapes that it makes."""
