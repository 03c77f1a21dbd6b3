"""Datasets: the manifest, builds and verified reading."""
