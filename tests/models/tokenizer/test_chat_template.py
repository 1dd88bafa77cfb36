"""Chat templates say what transformers makes them say."""

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from sparseact.data import prompt_ids
from sparseact.errors import InputError
from sparseact.models.hf import as_transformers
from sparseact.models.tokenizer import Tokenizer as OurTokenizer
from sparseact.testing import tiny_tokenizer

CHATML = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are kind<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""

LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """\
{{ bos_token }}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% if message['role'] == 'user' %}
{{ '[INST] ' + message['content'] + ' [/INST]' }}
    {% else %}
{{ message['content'] + eos_token}}
    {% endif %}
{% endfor %}"""

GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\\n'}}
{%- endif -%}
"""

QWEN3 = """\
{%- set ns = namespace(multi_step=true, last=messages|length - 1, self=1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if loop.index0 > 3 %}{% break %}{% endif %}
    {%- if '</think>' in message.content %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
    {%- else %}
        {%- set content = message.content %}
    {%- endif %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ content ~ ns.last ~ '<|im_end|>' }}
    {{- dict(a=message, b='é<&>') | tojson }} {{ message | tojson(indent=2) }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

MARKED = """\
{% set word = 'outer' %}
{% for message in messages %}
    {% if message['role'] == 'assistant' %}
        {% generation %}
{% set word = 'inner' %}
{{ message['content'] }}{{ word }}
        {% endgeneration %}
    {% else %}
{{ message['content'] }}{{ word }}{{ undefined_thing }}{{ unk_token }}
    {% endif %}
{% endfor %}
"""

TEMPLATES = {name: text for name, text in globals().items() if name.isupper()}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CONTENT = st.text(max_size=20) | st.sampled_from([" padded \n", "<think>a</think>\n\nb", "{{ 7 * 7 }}", "é \u2028"])
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": CONTENT}, optional={"name": st.none()}
    ),
    min_size=1,
    max_size=6,
)


def ours(template):
    return OurTokenizer(Tokenizer(models.BPE()), SPECIAL, template)


def theirs(template):
    return as_transformers(ours(template))


def outcome(tokenizer, messages, **options):
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except jinja2.TemplateError as error:
        return type(error), str(error)


@pytest.mark.parametrize("name", TEMPLATES)
def test_real_templates(name):
    mine, reference = ours(TEMPLATES[name]), theirs(TEMPLATES[name])

    @settings(deadline=None, max_examples=60)
    @given(messages=MESSAGES, answer=st.booleans())
    def equal(messages, answer):
        found = outcome(mine, messages, add_generation_prompt=answer)
        assert found == outcome(reference, messages, add_generation_prompt=answer)

    equal()


def test_what_a_template_says():
    messages = [{"role": "user", "content": " Why? "}, {"role": "assistant", "content": "So."}]
    assert ours(MISTRAL).apply_chat_template(messages, tokenize=False) == "<s>\n[INST]  Why?  [/INST]\nSo.</s>\n"
    assert outcome(ours(MISTRAL), messages[1:]) == (
        jinja2.TemplateError,
        "Conversation roles must alternate user/assistant/user/assistant/...",
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ dict.__init__ }}",
        "{% set n = namespace(__class__=1) %}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ raise_exception.__globals__ }}",
        "{% for %}",
        "{{ messages | nothing }}",
    ],
)
def test_what_a_template_may_not_do(template):
    messages = [{"role": "user", "content": "Why?"}]
    found = outcome(ours(template), messages)
    reference = outcome(theirs(template), messages)
    assert found == reference if isinstance(found, str) else found[0] == reference[0]
    assert found == "" or issubclass(found[0], jinja2.TemplateError)


def test_a_prompt_in_the_template_is_what_transformers_encodes():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    light = OurTokenizer(tokenizer.backend_tokenizer, tokenizer.special_tokens_map, CHATML)
    reference = tokenizer.apply_chat_template([{"role": "user", "content": "Why?"}], add_generation_prompt=True)
    assert prompt_ids(light, "Why?") == prompt_ids(tokenizer, "Why?") == reference["input_ids"]
    assert prompt_ids(light, "Why?", chat=False) == tokenizer("Why?")["input_ids"]


def test_several_templates():
    message = [{"role": "user", "content": "Why?"}]
    assert ours({"default": "a", "tool_use": "b"}).apply_chat_template(message, tokenize=False) == "a"
    with pytest.raises(InputError, match="several of which none is the default"):
        ours({"rag": "a", "tool_use": "b"}).apply_chat_template(message, tokenize=False)
    with pytest.raises(InputError, match="chat template fails"):
        prompt_ids(ours({"rag": "a"}), "Why?")


def test_half_of_a_character_is_no_prompt():
    with pytest.raises(InputError, match="character 4 is half of one"):
        prompt_ids(tiny_tokenizer(), "caf\udce9")
