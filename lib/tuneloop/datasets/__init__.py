"""Datasets: the manifest, selection, build and verified reading."""
