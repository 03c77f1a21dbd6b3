from __future__ import annotations

import pytest

from tuneloop.errors import DataError
from tuneloop.training.text.jinja_template import MAX_ITERATIONS, JinjaTemplate, find_template

EACH, END = "{% for m in messages %}", "{% endfor %}"
MESSAGES = [{"role": "user", "content": "Hé <b>"}, {"role": "assistant", "content": "b"}]


def render(source: str, **special_tokens: str) -> str:
    template = JinjaTemplate(source, special_tokens, "m/chat_template.jinja")
    return template.render(MESSAGES, generation_prompt=True, thinking=False)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (f"{EACH}\n  {{% if loop.last %}}\nx{{{{ loop.index }}}}{{% endif %}}\n{END}", "x2"),
        (f"{EACH}{{% if loop.first %}}{{% continue %}}{{% endif %}}{{{{ m.content }}}}{END}", "b"),
        (f"{EACH}{{{{ loop.length }}}}{{{{ m.content }}}}{{% break %}}{END}", "2Hé <b>"),
        ("{% generation %}{{ messages[1].content }}{% endgeneration %}", "b"),
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "Hé <b>"}'),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=True) }}", '{"a": 2, "b": 1}'),
        ("{{ bos_token }}{{ eos_token }}{{ tools is none }}", "<s>True"),
        ("{{ strftime_now('%Y-%m-%d') }}", "2024-07-26"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f('a') }}{{ f('b') }}", "[a][b]"),
        ("{% set a = namespace(n=0) %}" + EACH + "{% set a.n = 7 %}" + END + "{{ a.n }}", "7"),
    ],
)
def test_templates_are_rendered_as_transformers_does(source: str, expected: str) -> None:
    assert render(source, bos_token="<s>") == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for a in range(99999) %}{% for b in range(9) %}{% endfor %}{% endfor %}", "more than"),
        ("{% for a in range(999999999) %}{% endfor %}", "Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "maximum recursion depth"),
        ("{{ raise_exception('Not this way') }}", "Not this way"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ a.b.c }}", "undefined"),
    ],
)
def test_a_template_that_fails_is_one_sentence(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as e:
        render(source)
    assert str(e.value).startswith("m/chat_template.jinja: the chat template fails for")
    assert "\n" not in str(e.value)


def test_the_iterations_of_each_rendering_are_counted_anew() -> None:
    source = f"{{% for a in range({MAX_ITERATIONS - 10}) %}}{{% endfor %}}"
    assert render(source) == render(source) == ""


def test_the_template_file_comes_before_the_config() -> None:
    files = {
        "chat_template.jinja": b"file",
        "tokenizer_config.json": b'{"chat_template": "config"}',
        "chat_template.json": b'{"chat_template": "processor"}',
    }
    assert find_template(files, "m") == ("file", "m/chat_template.jinja")
    del files["chat_template.jinja"]
    assert find_template(files, "m") == ("config", "m/tokenizer_config.json")
    del files["tokenizer_config.json"]
    assert find_template(files, "m") == ("processor", "m/chat_template.json")
    assert find_template({"tokenizer_config.json": b"{}"}, "m") is None
