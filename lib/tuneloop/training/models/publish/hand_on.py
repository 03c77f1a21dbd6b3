"""What a train stage does between the last step and the folders of its tuned model.

merge the adapters (`lora/merge.py`) -> round_weights -> parity.make_reference
  -> stored.write_model_folder(documents=tuned_documents(...)) -> parity.check_folder
  -> adapter_documents, for a model with adapters
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from tuneloop.artifacts.model_manifest import ModelManifest, is_document
from tuneloop.specs.training.architecture import Architecture
from tuneloop.specs.training.method import LoraMethod
from tuneloop.training.models.hf_layout import CheckpointFiles
from tuneloop.training.models.lora.merge import Adapter
from tuneloop.training.models.lora.peft import peft_files
from tuneloop.training.models.naming import name_style, rule_of
from tuneloop.training.models.parameters import param_items
from tuneloop.training.models.publish import card as model_card
from tuneloop.training.models.publish.card import ModelCard, render_card
from tuneloop.training.models.publish.text_files import inherited_text_files
from tuneloop.training.models.stored import ModelFolder

HUB_SCHEME = "hf://"


def round_weights(
    model: nnx.Module,
    architecture: Architecture,
    base: CheckpointFiles | None = None,
    dtype: str | None = None,
) -> None:
    """Round the weights to the dtypes in which they will be written, in place.

    The parameters keep their dtype. After this, the model in memory computes what the written one
    computes, so the two can be compared bit by bit.

    Args:
        model: a model without adapters.
        architecture: family and shape.
        base: as for `outgoing_params`: the checkpoint whose dtypes are kept.
        dtype: as for `outgoing_params`: dtype of all weights; None keeps those of the base.
    """
    stored = {} if base is None else base.tensors
    style = name_style(stored)
    for path, variable in param_items(model):
        rule = rule_of(architecture.family, ".".join(map(str, path)))
        names = [style.stored_name(name) for name in rule.tensors]
        found = [stored[name].dtype if name in stored else variable.dtype for name in names]
        dtypes = [np.dtype(dtype or each) for each in found]
        value = variable.get_value()
        if not rule.is_stacked or len(set(dtypes)) == 1:
            rounded = value.astype(dtypes[0])
        else:
            parts = zip(value, dtypes, strict=True)
            rounded = jnp.stack([part.astype(each).astype(value.dtype) for part, each in parts])
        variable.set_value(rounded.astype(value.dtype))


def tuned_documents(
    base: ModelFolder, stop_ids: Iterable[int], card: ModelCard
) -> dict[str, bytes]:
    """Return all files but weights, config.json and manifest of a model tuned from a stored one.

    Args:
        base: folder of the model that was tuned. Its licence files are handed on, as most licences
            ask for; its own card is replaced.
        stop_ids: ids that end a response, of the model's `ChatFormat`.
        card: facts of the model card.

    Raises:
        DataError: a file of the base is not valid.
    """
    inherited = {
        name: data
        for name, data in base.contents.items()
        if is_document(name) and not name.upper().startswith("README")
    }
    return {
        **inherited,
        **inherited_text_files(base.contents, stop_ids, base.url),
        model_card.NAME: render_card(card),
    }


def adapter_documents(
    adapters: Mapping[str, Adapter],
    method: LoraMethod,
    base: ModelManifest,
    card: ModelCard,
    weights: CheckpointFiles | None = None,
) -> dict[str, bytes]:
    """Return all files of the PEFT adapter folder of a tuned model.

    Args:
        adapters: as `adapters_of` returns them.
        method: what they were trained with.
        base: manifest of the model that they are for.
        card: facts of the model card, with `adapter_only`.
        weights: weights of the base; those of a multimodal model have other names. None for random
            weights.

    Raises:
        DataError: the family has no Hugging Face name for a weight.
    """
    style = name_style(weights.tensors) if weights is not None else None
    found = peft_files(adapters, base.architecture.family, method, base_reference(base), style)
    return {**found, model_card.NAME: render_card(card)}


def base_reference(base: ModelManifest) -> str:
    """Return how other tools find a base model: its hub id, or else its name here."""
    # A model that was tuned here keeps the source of its base, and is not what the hub has.
    if base.base is None and base.source.startswith(HUB_SCHEME):
        # hf://OWNER/NAME@REVISION or with a path below it
        owner_and_name: list[Any] = base.source.removeprefix(HUB_SCHEME).split("/")[:2]
        return "/".join(owner_and_name).partition("@")[0]
    return base.name
