"""Old keys and values of the run spec and what replaced them, for the error about an old one."""

from __future__ import annotations

RENAMED_KEYS = {
    "train.optimizer.warmup_fraction": "warmup_ratio",
    "train.optimizer.final_fraction": "min_lr_ratio",
    "train.optimizer.clip_norm": "max_grad_norm",
    "train.optimizer.b1": "beta1",
    "train.optimizer.b2": "beta2",
    "train.over_length": "export.over_length",
    "export.max_length": "max_length_characters, or max_length_tokens with a tokenizer",
    "execution.cluster.graces": "timeouts",
    **{
        f"execution.cluster.{stage}.shards": "shard_count"
        for stage in ("export", "train", "eval", "import")
    },
}
"""Path of an old key in a run spec -> the key to write in its place, or the path of a key in
another section."""

RENAMED_KINDS = {
    "train.model.kind": {"gemma3": "kind: random with family: gemma3, or kind: pretrained"},
}
"""Path of a `kind` in a run spec -> old value -> what to write in its place."""
