"""Models: families, checkpoints in Hugging Face layout, and their names and shapes."""
