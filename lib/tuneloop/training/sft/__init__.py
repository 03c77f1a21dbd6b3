"""Supervised fine-tuning (SFT) with Tunix."""
