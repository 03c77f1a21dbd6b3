"""tuneloop: batch jobs for the reasoning-trace fine-tuning loop."""
