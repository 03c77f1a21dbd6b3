"""From traces to a fine-tuned model: rendering, tokenizers, export, models, SFT, generation."""
