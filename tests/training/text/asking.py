"""Whether a conversation is asked as an example of it is trained."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from tests.builders import make_row
from tuneloop.stages.answering.question import Question
from tuneloop.stages.sampling.prompts import item_of_row
from tuneloop.traces.conversation import trace_of_conversation
from tuneloop.training.chat_drafts import split_turn
from tuneloop.training.conversation import Conversation
from tuneloop.training.export.examples import ExampleBuilder
from tuneloop.training.prompt_templates import Draft, recipe_named
from tuneloop.training.text.chat_format import ChatFormat
from tuneloop.training.text.rows import encode_rows

ROW = {"id": "a", "created_at": "2026-11-29T00:00:00.000000Z"}


def is_asked_as_trained(
    conversation: Conversation,
    chat: ChatFormat,
    recipe: str = "trace_sft_v1",
    instruction: str | None = None,
    system_instruction: str | None = None,
) -> bool:
    """Compare what is asked with the prompt part of the training example, id by id.

    Returns:
        Whether a sampling run asks the conversation at all.
    """
    cut = msgspec.structs.replace(conversation, messages=conversation.messages[:-1])
    final = msgspec.structs.replace(conversation, loss="final")
    (whole,) = chat.turns.encode(final, system_instruction)
    assert chat.turns.encode_prompt(cut, system_instruction) == whole.ids[: whole.trained[0][0]]

    trace = trace_of_conversation(
        msgspec.to_builtins(conversation.messages),
        system=None if conversation.system is UNSET else conversation.system,
        tools=[msgspec.json.decode(each) for each in conversation.tools or ()],
    )
    row = make_row({**trace, **ROW})
    if split_turn(row)[0]:
        return False
    builder = ExampleBuilder("build", recipe, instruction)
    draft = builder.draft(row)
    assert isinstance(draft, Draft)
    response = builder.render_response(draft)
    example = builder.build(
        row, draft.prompt, response, conversation=builder.conversation(draft, response, "final")
    )
    (trained,) = encode_rows(example, chat, system_instruction)
    item, template = item_of_row(row, recipe_named(recipe)), recipe_named(recipe)
    text = template.render_prompt(item.prompt, instruction)
    question = Question(text, context=item.context, think_block=template.is_chat)
    asked = question.encode(chat, system_instruction)
    assert asked == trained.ids[: trained.trained[0][0]]
    return True
