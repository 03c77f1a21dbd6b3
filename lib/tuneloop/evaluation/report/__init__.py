"""The delta report, which compares the base model with the tuned model."""
