"""What an evaluation keeps of finished batches, and how far its answers can be repeated."""
