#!/usr/bin/env python3
"""Writes tests/golden/dialogues.json: dialogues in the manner of a dozen families' templates, with what transformers and
tokenizers make of them.

For each family a template (ours, after the family's format) with {% generation %} around what the assistant says up to
and with its stop token, as users of TRL add it, and two small tokenizers, byte-level and SentencePiece-like, that hold
all families' control tokens. Expected: ids and assistant masks of apply_chat_template(return_assistant_tokens_mask).
Cambium must find the same with the marks and, from the words alone, without them.

Run: make_dialogue_golden.py OUT.json, with transformers 4.57 and tokenizers 0.22.
"""
import json
import re
import sys

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

G, E = "{% generation %}", "{% endgeneration %}"

# name: (bos, stop, template)
FAMILIES = {
    "chatml": ("", "<|im_end|>", "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}" + G + "{{ m.content + '<|im_end|>' }}" + E + "{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"),
    "default-system": ("", "<|im_end|>", "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}" + G + "{{ m.content }}<|im_end|>" + E + "{{ '\n' }}{% else %}{{ m.content }}<|im_end|>{{ '\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"),
    "qwen-tools": ("", "<|im_end|>", "{%- if tools %}{{- '<|im_start|>system\n# Tools\n<tools>' }}{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}{{- '\n</tools><|im_end|>\n' }}{%- endif %}{%- for m in messages %}{%- if m.role == 'tool' %}{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}{%- elif m.role == 'assistant' %}{{- '<|im_start|>assistant\n' }}" + G + "{%- if m.content %}{{- m.content }}{%- endif %}{%- for call in m.tool_calls %}{%- if (loop.first and m.content) or not loop.first %}{{- '\n' }}{%- endif %}{%- set f = call.function %}{{- '<tool_call>\n{\"name\": \"' + f.name + '\", \"arguments\": ' }}{{- f.arguments | tojson }}{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>' }}" + E + "{{- '\n' }}{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"),
    "qwen-thinking": ("", "<|im_end|>", "{%- set ns = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}{%- for m in messages %}{%- if m.role == 'assistant' %}{%- set content = m.content %}{%- set reasoning = '' %}{%- if m.reasoning_content is string %}{%- set reasoning = m.reasoning_content %}{%- elif '</think>' in content %}{%- set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}{{- '<|im_start|>assistant\n' }}" + G + "{%- if loop.index0 > ns.last and (loop.last or reasoning) %}{{- '<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}{%- else %}{{- content }}{%- endif %}{{- '<|im_end|>' }}" + E + "{{- '\n' }}{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"),
    "opened-think": ("<s>", "</s>", "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}{% elif m.role == 'assistant' %}{% set c = m.content %}{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}{{ '<|Assistant|>' }}" + G + "{{ c + '</s>' }}" + E + "{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}{% if m.role == 'assistant' %}" + G + "{{ m.content | trim + '<|eot_id|>' }}" + E + "{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"),
    "llama2": ("<s>", "</s>", "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}{% for m in rest %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + m.content.strip() + ' [/INST]' }}{% elif m.role == 'assistant' %}" + G + "{{ ' ' + m.content.strip() + ' ' + eos_token }}" + E + "{% endif %}{% endfor %}"),
    "mistral-tools": ("<s>", "</s>", "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{% if tools and loop.first %}{{ '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}{{ '[INST]' + m.content + '[/INST]' }}{% elif m.role == 'assistant' %}" + G + "{% if m.tool_calls %}{{ '[TOOL_CALLS][' }}{% for c in m.tool_calls %}{{ '{\"name\": \"' + c.function.name + '\", \"arguments\": ' + (c.function.arguments | tojson) + ', \"id\": \"' + c.id + '\"}' }}{{ ', ' if not loop.last }}{% endfor %}{{ ']' + eos_token }}{% else %}{{ m.content + eos_token }}{% endif %}" + E + "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS]{\"content\": ' + (m.content | tojson) + ', \"call_id\": \"' + m.tool_call_id + '\"}[/TOOL_RESULTS]' }}{% endif %}{% endfor %}"),
    "gemma": ("<bos>", "<end_of_turn>", "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if m.role == 'assistant' %}{{ '<start_of_turn>model\n' }}" + G + "{{ m.content | trim }}<end_of_turn>" + E + "{{ '\n' }}{% else %}{{ '<start_of_turn>' + m.role + '\n' + (first if loop.first else '') + (m.content | trim) + '<end_of_turn>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"),
    "phi3": ("<s>", "<|end|>", "{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{% if m.role == 'assistant' %}" + G + "{{ m.content + '<|end|>' }}" + E + "{{ '\n' }}{% else %}{{ m.content + '<|end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"),
    "zephyr": ("<s>", "</s>", "{% for m in messages %}\n{% if m.role == 'user' %}\n{{ '<|user|>\n' + m.content + eos_token }}\n{% elif m.role == 'system' %}\n{{ '<|system|>\n' + m.content + eos_token }}\n{% elif m.role == 'assistant' %}\n{{ '<|assistant|>\n' }}" + G + "{{ m.content + eos_token }}" + E + "{{ '\n' }}{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"),
    "vicuna": ("<s>", "</s>", "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content + '\n\n' }}{% elif m.role == 'user' %}{{ 'USER: ' + m.content + '\n' }}{% elif m.role == 'assistant' %}{{ 'ASSISTANT:' }}" + G + "{{ ' ' + m.content + '</s>' }}" + E + "{{ '\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"),
    "granite": ("", "<|end_of_text|>", "{% macro turn(role, text) %}{{ '<|start_of_role|>' ~ role ~ '<|end_of_role|>' ~ text ~ '<|end_of_text|>\n' }}{% endmacro %}{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}" + G + "{{ m.content }}<|end_of_text|>" + E + "{{ '\n' }}{% else %}{{ turn(m.role, m.content) }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"),
}
CONTROL = sorted({t for b, s, source in FAMILIES.values() for t in [b, s, *re.findall(r"<\|\w+\|>|\[/?[A-Z_]{3,}\]|<\w+_of_turn>", source)]
                  if t} | {"<unk>", "<|user|>", "<|system|>", "<|assistant|>", "<|tool|>"})
ADDED = ["<think>", "</think>", "<tool_call>", "</tool_call>"]  # not control: they may be typed
CORPUS = ["Hello there, how are you today? The weather in Paris is fine and clear, 12 degrees.",
          "What is two and two? It is four. Thanks! I think that the answer is ok.\n\nASSISTANT: USER: user\n",
          "{\"name\": \"weather\", \"arguments\": {\"city\": \"Paris\"}}\n" * 3] * 4

TOOL = {"type": "function", "function": {"name": "weather", "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
U, A, S = (lambda c: {"role": "user", "content": c}), (lambda c: {"role": "assistant", "content": c}), (lambda c: {"role": "system", "content": c})
CALL = {"role": "assistant", "content": "", "tool_calls": [
    {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris", "days": 2}}}]}
CALL2 = {"role": "assistant", "content": "I look.", "tool_calls": CALL["tool_calls"] + [
    {"id": "call00002", "type": "function", "function": {"name": "weather", "arguments": {}}}]}
RESULT = {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": "12 degrees"}
DIALOGUES = {
    "one": ([U("hi"), A("ok")], {}),
    "system": ([S("Be brief."), U("What is two and two?"), A("It is four."), U("Thanks!"), A("\u00bd \u4e2d\u6587 \U0001f600")], {}),
    "newlines": ([U("hi\n"), A("\n\nok\n\n"), U(" a "), A("b")], {}),
    "assistant-first": ([A("Hello there."), U("hi"), A("ok")], {}),
    "no-more-questions": ([U("hi"), A("ok"), A("more")], {}),
    "decomposed": ([U("caf\u0065\u0301"), A("e\u0301t\u00e9 \u0301x")], {}),
    "thinking": ([U("hi"), A("<think>\nhm\n</think>\n\nok"), U("more"), A("<think>\nso\n</think>\n\nfine")], {}),
    "reasoning": ([U("hi"), {**A("ok"), "reasoning_content": "hm"}], {}),
    "no-thinking": ([U("hi"), A("ok"), U("a"), A("b")], {"enable_thinking": False}),
    "tools": ([U("Weather in Paris?"), CALL, RESULT, A("It is fine.")], {"tools": [TOOL]}),
    "two-calls": ([U("Weather?"), CALL2, RESULT, RESULT, A("ok"), U("Thanks!"), A("Hello")], {"tools": [TOOL, TOOL]}),
}
ONLY = {"tools": ("qwen-tools", "mistral-tools"), "two-calls": ("qwen-tools",), "reasoning": ("qwen-thinking",),
        "no-thinking": ("qwen-thinking",)}
# Where words alone say something else: no prompt of its own before an answer, or one with more in it than the marks have.
UNCLEAR = {("llama2", "no-more-questions"), ("mistral-tools", "assistant-first"), ("qwen-thinking", "no-thinking")}
# transformers takes the token 0 for none, so an answer that begins the text gets no mask.
SKIPPED = {("llama2", "assistant-first")}


def byte_level():
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tok


def sentencepiece():
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    spaces = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    trained.normalizer = normalizers.Sequence(spaces)
    trained.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=160, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    pieces += [p for p in model["vocab"] if p not in pieces and p != "\n"]
    merges = [tuple(m) for m in model["merges"]]
    tok = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=[m for m in merges if "\n" not in m[0] + m[1]],
                               unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence(spaces)
    tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tok


def finish(tok):
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    tok.add_tokens([AddedToken(t, special=False, normalized=False) for t in ADDED])
    return tok


def main():
    tokenizers = {"bytes": finish(byte_level()), "pieces": finish(sentencepiece())}
    cases = []
    for name, (bos, stop, source) in FAMILIES.items():
        for kind, tok in tokenizers.items():
            fast = PreTrainedTokenizerFast(tokenizer_object=tok, bos_token=bos or None, eos_token=stop)
            for dialogue, (messages, extra) in DIALOGUES.items():
                if (ONLY.get(dialogue) and name not in ONLY[dialogue]) or (name, dialogue) in SKIPPED:
                    continue
                out = fast.apply_chat_template(messages, chat_template=source, tokenize=True, return_dict=True,
                                               return_assistant_tokens_mask=True, **extra)
                plain, marked = (fast.apply_chat_template(messages, chat_template=t, tokenize=False, **extra)
                                 for t in (source.replace(G, "").replace(E, ""), source))
                assert plain == marked, (name, dialogue)
                assert sum(out["assistant_masks"]) > 0, (name, dialogue)
                cases.append({"family": name, "tokenizer": kind, "dialogue": dialogue, "ids": out["input_ids"],
                              "trained": "".join(map(str, out["assistant_masks"])), "unclear": (name, dialogue) in UNCLEAR})
    golden = {
        "families": {n: {"bos": b, "stop": s, "marked": t, "plain": t.replace(G, "").replace(E, "")} for n, (b, s, t) in FAMILIES.items()},
        "tokenizers": {k: json.loads(t.to_str()) for k, t in tokenizers.items()},
        "dialogues": {n: {"messages": m, "extra": e} for n, (m, e) in DIALOGUES.items()}, "cases": cases}
    with open(sys.argv[1], "w", encoding="ascii") as out:
        json.dump(golden, out, separators=(",", ":"))
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
