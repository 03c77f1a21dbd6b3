"""Token tables of given ids."""

from __future__ import annotations

from tuneloop.training.data.encoding import encode_block
from tuneloop.training.data.table import TokenTable, join_blocks
from tuneloop.training.schema import TrainingExample
from tuneloop.training.text.rows import plain_row


def table_of(*rows: tuple[list[int], list[int]], pad_id: int = 77) -> TokenTable:
    """Return a table of (prompt ids, response ids), whose examples are e0, e1 and so on."""
    examples = (
        ("x", TrainingExample(id=f"e{n}", prompt="p", response="r")) for n in range(len(rows))
    )
    block = encode_block(
        examples, lambda e: [plain_row(*rows[int(e.id[1:])])], max_length_tokens=2048
    )
    return join_blocks([block], pad_id=pad_id)
