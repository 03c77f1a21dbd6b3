"""Attention of the training step: one function for all families, and its kernels."""
