#!/usr/bin/env python3
"""Writes tests/golden/beams.json: what beam search of `transformers` finds with the tiny random models of
tests/golden/families, in float32. Needs torch, transformers, safetensors.

    python tools/make_beam_golden.py tests/golden
"""
import itertools
import json
import sys

import torch
import transformers as tf


def settings():
    for beams, penalty, early in itertools.product((2, 5), (0.0, 1.0, 2.0), (False, True, "never")):
        yield dict(num_beams=beams, length_penalty=penalty, early_stopping=early, max_new_tokens=10)
    yield dict(num_beams=4, no_repeat_ngram_size=2, min_new_tokens=6, max_new_tokens=14)
    yield dict(num_beams=4, repetition_penalty=1.2, max_new_tokens=10)


def main(folder):
    golden = {}
    for family in ("llama", "gpt2"):
        model = tf.AutoModelForCausalLM.from_pretrained(f"{folder}/families/{family}", dtype=torch.float32,
                                                        attn_implementation="eager").eval()
        torch.manual_seed(3)
        golden[family] = []
        for length in (3, 21):
            prompt = torch.randint(3, 96, (1, length))
            case = {"prompt": prompt[0].tolist(), "beams": []}
            for how in settings():
                with torch.no_grad():
                    got = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=2,
                                         eos_token_id=2, num_return_sequences=how["num_beams"],
                                         return_dict_in_generate=True, output_scores=True, **how)
                case["beams"].append({"settings": how, "ids": got.sequences.tolist(),
                                      "scores": got.sequences_scores.tolist()})
            golden[family].append(case)
    with open(f"{folder}/beams.json", "w") as f:
        json.dump(golden, f)


main(sys.argv[1])
