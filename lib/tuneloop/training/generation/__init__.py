"""Text generation with a model."""
