"""Tokenizers, and the encoding of examples as token ids."""
