"""Local files and object stores: all fsspec calls, their errors, and helpers for URLs."""
