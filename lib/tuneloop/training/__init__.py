"""From traces to a tuned model: text, tokens, export, models, SFT, generation."""
