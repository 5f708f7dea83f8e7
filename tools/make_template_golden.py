#!/usr/bin/env python3
"""Writes tests/golden/chat_templates.json: templates of our own, each with what jinja2 makes of it.

jinja2 is configured as transformers configures it. Run: make_template_golden.py OUT.json [TEMPLATE.jinja ...]; templates
named on the command line are rendered with every conversation below (for a check against files that are not ours).
"""
import json
import sys

from transformers.utils.chat_template_utils import _compile_jinja_template

USER = {"role": "user", "content": "  Hi there!\n"}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What's 2+2? \u00bd \u4e2d\u6587 <b>&\"'"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "Thanks \U0001f600"},
]
TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "Weather of a city \u2603",
    "parameters": {"type": "object", "required": ["city"],
                   "properties": {"city": {"type": "string", "description": "name"}, "days": {"type": "integer"}}}}}
CALLS = [
    {"role": "user", "content": "Weather in Paris?"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"id": "call12345", "type": "function",
         "function": {"name": "get_weather", "arguments": {"city": "Paris", "days": 3, "f": 1.5, "n": None}}}]},
    {"role": "tool", "name": "get_weather", "tool_call_id": "call12345", "content": "{\"sky\": \"clear\"}"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nClear."},
    {"role": "user", "content": "And Rome?"},
]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "image"},
                                      {"type": "text", "text": "two"}]}]
CONVERSATIONS = [
    ("user", [USER], {}), ("chat", CHAT, {}), ("tools", CALLS, {"tools": [TOOL]}), ("parts", PARTS, {}),
    ("no_think", CHAT, {"enable_thinking": False}), ("dated", CHAT, {"date_string": "26 Jul 2024"}),
    ("tools_no_user", CHAT[:1], {"tools": [TOOL, TOOL]}), ("empty", [], {}),
    ("bad_order", [CHAT[2], CHAT[1], CHAT[1]], {}),
]

# Expressions, printed one a line with `m` for messages.
EXPRESSIONS = r'''
1 + 2 * 3 ** 2 - -4
7 // 2, -7 // 2, 7 % 3, -7 % 3, 7 / 2, 2 ** -1, 7.5 // 2, -7.5 % 2
1.0, 1e20, 1e-7, 123456789.125, 0.1 + 0.2, 1e16, 12345678901234567.0
'a' ~ 1 ~ none ~ true ~ 1.5
'ab' * 3, [1] * 2, (1,) + (2,), [1, 'x', none, true]
{'a': 1, 'b': [1, 2], 3: 'c'}
'it\'s', "say \"hi\"", 'tab\t', 'a\\b', 'é½', '\x41\u00e9'
1 < 2 < 3, 1 < 2 > 5, 'a' < 'b', 1 == 1.0, true == 1, 'a' in 'cat', 3 not in [1, 2], 'role' in m[0]
not 1, not none, 0 or 'x', '' and 'y', 1 if 0 else 2
(1 if 0) is defined
'abc'[0], 'abc'[-1], 'abcdef'[1:4], 'abcdef'[::-1], 'abcdef'[-3:], 'héllo'[1:3], [1, 2, 3][1:], [1, 2, 3][::-1], m[1:] | length
m[0].role, m[0]['role'], m[0].missing is defined, m[99] is defined, m[-1].content
' x '.strip() ~ '|', '  x'.lstrip(), 'x--'.rstrip('-'), 'a,b,c'.split(','), ' a  b '.split(), 'a,b,c'.split(',', 1), 'a,b,c'.rsplit(',', 1)
'<think>x</think>y'.split('</think>')[-1].lstrip('\n'), 'a\nb\r\nc'.splitlines()
'Hello'.startswith('He'), 'Hello'.endswith(('x', 'lo')), 'hello'.upper(), 'HELLO'.lower(), 'hello world'.title(), 'hELLO'.capitalize()
'a-b-a'.replace('a', 'x'), 'a-b-a'.replace('a', 'x', 1), 'hello'.find('l'), 'hello'.rfind('l'), 'hello'.find('z'), 'banana'.count('an')
'-'.join(['a', 'b']), '12'.isdigit(), 'a1'.isalpha(), ' '.isspace()
{'a': 1}.items() | list, {'a': 1}.get('b', 5), {'a': 1}.get('a'), {'b': 1, 'a': 2}.keys() | list, {'b': 1}.values() | list
m[0] | tojson, [1, 2.5, none, true, 'é"\n</'] | tojson, {'a': {'b': [1, {}]}, 'c': []} | tojson(indent=2)
{'b': 1, 'a': 2} | tojson(sort_keys=true)
'x' | upper, '  t ' | trim, 'a b' | title, 'abC' | capitalize, 'a' | length, [1, 2] | count
[3, 1, 2] | sort, [3, 1, 2] | sort(reverse=true), ['b', 'A', 'c'] | sort, {'b': 1, 'a': 2} | dictsort
[1, 2, 3] | first, [1, 2, 3] | last, [1, 2, 3] | sum, [1, 5, 3] | max, [4, 2] | min, [1, 2, 3] | reverse | list, 'abc' | reverse
['a', 'b'] | join(', '), m | map(attribute='role') | join('|'), ['a', 'b'] | map('upper') | list
m | selectattr('role', 'equalto', 'user') | list | length, m | rejectattr('role', 'eq', 'user') | map(attribute='role') | list
[0, 1, 2, 3] | select('odd') | list, [0, 1, 2] | reject('even') | list, [none, 1, ''] | select | list
undefined_name | default('d'), '' | default('d'), '' | default('d', true), none | default('d')
'3' | int, 'x' | int, '2.7' | int, 3.9 | int, '1.5' | float, 2.5 | round, 2.567 | round(2), -3 | abs
'a\nb\n\nc' | indent(2), 'a\nb' | indent(4, true), ('<a>&' | e) ~ '', 'a b c' | wordcount, [1, 1, 2] | unique | list
[1, 2, 3, 4, 5] | batch(2) | list, 5 | string ~ 'x', 'a.b' | replace('.', '-')
1 is number, 'a' is string, m is sequence, m[0] is mapping, none is none, x is undefined, true is boolean, 3 is odd, 4 is divisibleby 2
1 is eq 1, 2 is gt 1, 'a' is in 'abc', [1] is iterable, 1 is iterable, 1 is integer, 1.0 is float, 'A' is upper, range is callable
range(3) | list, range(1, 7, 2) | list, range(3, 0, -1) | list, dict(a=1, b='x')
raise_exception is defined, strftime_now is defined, ns is defined
'%s' is string, 1 is not none, not x is defined, x is not defined and 1
'a' 'b', (1, 2), (1,), ()
-1 | abs, (-3) | abs, 2 * 3 | string, '1' ~ 2 + 3
true is sameas true, 1 is true
'İ' | lower | length, 'straße' | upper, 'ﬁ'.upper() is string
'a\u00a0'.strip() ~ '|', '\u3000x'.strip()
'aXbXc'.split('X')[1:] | join('-'), 'x'.split('y'), ''.split(','), ''.split()
'{}-{}|{a}{{}}'.format(1, 'b', a=none), '{1}{0}'.format(1, 2), none | select | list, none | map('upper') | list
'é☃😀"\\' | tojson(ensure_ascii=true), [1, {'a': 2}] | tojson(separators=(',', ':'))
'prefix-x'.removeprefix('prefix-'), 'x.py'.removesuffix('.py'), '7'.zfill(3), '-7'.zfill(3)
'''.strip().split("\n")

TEMPLATES = {
    "chatml": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nDefault.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "trim": "{%- for m in messages %}\n    {%- set c = m['content'] | trim %}\n    {% if m.role == 'user' %}\n  U:{{ c }}\n    {% elif m.role == 'system' %}\nS:{{ c }}\n    {%- else -%}\n   A:{{ c }}\n    {% endif %}\n{% endfor %}\n\n{{- eos_token }}\n\n",
    "whitespace": "a  \n  {%- if true %}  b  {%- endif +%}\n  c {#- note -#}  d\n  {# note #}\n{{- ' e ' -}}  \n f\n  {%+ if true %}g{% endif %}\n  {% if true -%}\n   h\n{% endif %}\nend\n\n",
    "raw": "{% raw %}{{ x }} {% if %}{% endraw %}\n x {%- raw -%}  y {%- endraw -%}  z",
    "namespace": "{% set ns = namespace(found=false, n=0, last='') %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.found = true %}{% set ns.n = ns.n + 1 %}{% set ns.last = m.content %}{% endif %}{% endfor %}{{ ns.found }} {{ ns.n }} {{ ns.last }}",
    "scope": "{% set x = 1 %}{% for m in messages %}{{ x }}{% set x = x + 1 %}{{ x }},{% endfor %}{{ x }}{% if true %}{% set x = 9 %}{% endif %}{{ x }}{% with y = x, z = 3 %}{{ y + z }}{% endwith %}{{ y is defined }}",
    "loop": "{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ loop.index0 }} {{ loop.revindex }} {{ loop.revindex0 }} {{ loop.first }} {{ loop.last }} {{ loop.previtem.role if loop.previtem is defined else '-' }} {{ loop.nextitem.role if not loop.last else '-' }} {{ loop.cycle('odd', 'even') }} {{ loop.changed(m.role) }}\n{% else %}none{% endfor %}{% for x in [] %}{% else %}empty{% endfor %}",
    "loop_filter": "{% for m in messages if m.role != 'system' %}{{ loop.index }}{{ loop.last }}{{ m.role }};{% endfor %}{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for c in 'h\u00e9' %}[{{ c }}]{% endfor %}{% for k in {'x': 1} %}{{ k }}{% endfor %}",
    "breaks": "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ m.role }}{% if loop.index == 3 %}{% break %}{% endif %},{% endfor %}",
    "macro": "{% macro f(a, b='x', c=none) %}[{{ a }}|{{ b }}|{{ c }}]{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(a=3, c=f(4)) }}{{ f() }}{% macro g(n) %}{{ n }}{% if n > 0 %}{{ g(n - 1) }}{% endif %}{% endmacro %}{{ g(3) }}{{ f(1) | upper | length }}",
    "call": "{% macro box(t) %}<{{ t }}>{{ caller('in') }}</{{ t }}>{% endmacro %}{% call(x) box('b') %}body {{ x }} {{ messages | length }}{% endcall %}",
    "set_block": "{% set t %}  a{{ messages | length }}b  {% endset %}[{{ t }}]{% set u | trim | upper %}  x{{ t }} {% endset %}[{{ u }}]{% filter upper | replace('A', 'Z') %}banana{% endfilter %}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}",
    "tools": "{% if tools %}{{ '# Tools\n' }}{% for tool in tools %}{{ tool | tojson }}\n{{ tool | tojson(indent=4) }}\n{% set f = tool.function %}{{ f.name }}({% for p, s in f.parameters.properties.items() %}{{ p }}: {{ s.type }}{% if p in f.parameters.required %}!{% endif %}{{ ', ' if not loop.last }}{% endfor %}){% endfor %}{% endif %}{% for m in messages %}{% if m.tool_calls is defined %}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }} {{ c.function.arguments }} {{ c.id | length }}{% endfor %}{% endif %}{% endfor %}",
    "bos": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}{% if m['content'] is string %}{{ m['content'] | trim }}{% elif m['content'] is iterable %}{% for item in m['content'] %}{% if item['type'] == 'image' %}{{ '<img>' }}{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}{% endfor %}{% else %}{{ raise_exception('bad') }}{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "thinking": "{%- set ns = namespace(multi=true, last=messages|length - 1) %}{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{%- if ns.multi and message.role == 'user' and message.content is string and not(message.content.startswith('<tool>')) %}{%- set ns.multi = false %}{%- set ns.last = index %}{%- endif %}{%- endfor %}{{ ns.last }}{%- for m in messages %}{%- set content = m.content %}{%- if m.role == 'assistant' and '</think>' in content %}{%- set r = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}{%- set content = content.split('</think>')[-1].lstrip('\\n') %}R[{{ r }}]{%- endif %}C[{{ content }}]{%- endfor %}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}",
    "dated": "{%- if not date_string is defined %}{%- set date_string = '01 Jan' %}{%- endif %}Today: {{ date_string }}{% if strftime_now is defined %} {{ strftime_now('%%') }}{% endif %}",
    "undefined": "[{{ nothing }}][{{ messages[0].nothing }}][{{ nothing | default('x') }}]{% for x in nothing %}y{% endfor %}{{ nothing is defined }}{{ 'a' if nothing else 'b' }}{{ (nothing, 1) | length }}",
    "newlines": "a\r\nb\rc{{ 'd\r\ne' }}\r\n{% if true %}\r\nf\r\n{% endif %}\r\n",
    "none": "{{ none }}{{ [none, {'a': none}] }}{{ true }}{{ (1, 'a') }}{{ 1.0 }}{{ {} }}",
    "comment": "a{# {{ x }} {% bad %} #}b\n   {# c #}   \nd",
    "refuses": "{{ raise_exception('Only user messages: ' ~ messages | length) }}",
    # Errors.
    "e_attribute": "{{ nothing.x }}", "e_call": "{{ nothing() }}", "e_type": "{{ 1 + 'a' }}", "e_order": "{{ 1 < 'a' }}",
    "e_filter": "{{ 1 | no_such }}", "e_test": "{{ 1 is no_such }}", "e_tag": "{% frobnicate %}", "e_open": "{% if true %}",
    "e_expr": "{{ 1 + }}", "e_close": "{{ 1 ", "e_string": "{{ 'abc }}", "e_end": "{% endif %}", "e_zero": "{{ 1 / 0 }}",
    "e_unpack": "{% for a, b in [1] %}{% endfor %}", "e_iterate": "{% for a in 5 %}{% endfor %}",
    "e_append": "{% set x = [] %}{{ x.append(1) }}", "e_class": "{{ ''.__class__.__mro__ }}",
    "e_range": "{{ range(10**9) | list }}", "e_globals": "{{ raise_exception.__globals__['os'] }}",
    "e_format": "{{ ''['__class__']['__base__'] }}", "e_call2": "{{ 'x'() }}", "e_break": "{% break %}",
    "e_args": "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "e_do": "{% do 1 %}",
}


def render(source, messages, add, extra):
    try:
        text = _compile_jinja_template(source).render(
            messages=messages, add_generation_prompt=add, **{"tools": None, "documents": None, **extra})
        return {"expect": text}
    except Exception as error:  # any refusal counts
        return {"error": f"{type(error).__name__}: {error}"[:200]}


def main():
    cases = []

    def add_case(name, source, messages, add, extra):
        extra = {"bos_token": "<s>", "eos_token": "</s>", **extra}
        cases.append({"name": name, "template": source, "messages": messages, "add_generation_prompt": add,
                      "extra": extra, **render(source, messages, add, extra)})

    if len(sys.argv) > 2:
        for path in sys.argv[2:]:
            source = open(path, encoding="utf-8").read()
            for name, messages, extra in CONVERSATIONS:
                for add in (True, False):
                    add_case(f"{path.split('/')[-1]} {name}", source, messages, add, extra)
    else:
        for i, expression in enumerate(EXPRESSIONS):
            add_case(f"expression {i}", "{% set m = messages %}{{ " + expression + " }}", CHAT, False, {})
        for name, source in TEMPLATES.items():
            conversations = CONVERSATIONS if name in ("chatml", "bos", "thinking", "tools", "dated") else CONVERSATIONS[1:2]
            for conversation, messages, extra in conversations:
                add_case(f"{name} {conversation}", source, messages, True, extra)
    with open(sys.argv[1], "w", encoding="ascii") as out:
        json.dump(cases, out, indent=1)
    print(len(cases), "cases,", sum("error" in c for c in cases), "of them refused")


if __name__ == "__main__":
    main()
