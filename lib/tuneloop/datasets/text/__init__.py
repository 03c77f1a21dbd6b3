"""Text normalization and MinHash signatures, for comparisons of traces and examples."""
