"""The delta report: base against tuned model."""
