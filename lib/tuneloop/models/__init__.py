"""Models as artifacts: add a checkpoint, list and verify stored models, hand a tuned model on."""
