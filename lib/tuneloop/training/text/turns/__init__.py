"""Encode conversations with a chat template: messages, their stand-ins, ids and loss."""
