from __future__ import annotations

import pytest

from tuneloop.errors import SpecError
from tuneloop.training.prompt_templates import recipe_named


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(SpecError, match="recipe 'x' is unknown, expected one of: answer_only"):
        recipe_named("x")
