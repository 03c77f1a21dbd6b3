"""Low-rank adapters (LoRA and QLoRA): apply them, merge them, write them as a PEFT folder."""
