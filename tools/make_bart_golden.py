#!/usr/bin/env python3
"""Writes tests/golden/bart/NAME/{config.json,generation_config.json,model.safetensors,golden.json,
gradients.safetensors}: tiny random BART
models, and what `transformers` makes of them in float32: logits, gradients, greedy answers, beam search. Needs torch,
transformers, safetensors.

    python tools/make_bart_golden.py tests/golden/bart
"""
import itertools
import json
import os
import sys

import torch
import transformers as tf
from safetensors.torch import save_file

VOCAB = 99
COMMON = dict(vocab_size=VOCAB, d_model=32, encoder_layers=2, decoder_layers=3, encoder_attention_heads=4,
              decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
              bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2)
MODELS = {
    "plain": dict(scale_embedding=False, forced_eos_token_id=None),
    "scaled": dict(scale_embedding=True, forced_bos_token_id=0, forced_eos_token_id=2),
}


def settings():
    for beams, penalty, early in itertools.product((4, 6), (0.0, 1.0, 2.0), (False, True, "never")):
        yield dict(num_beams=beams, length_penalty=penalty, early_stopping=early, max_new_tokens=12)
    yield dict(num_beams=4, no_repeat_ngram_size=3, max_new_tokens=16)
    yield dict(num_beams=4, no_repeat_ngram_size=2, min_new_tokens=8, max_new_tokens=16, early_stopping=True)
    yield dict(num_beams=2, min_new_tokens=5, max_new_tokens=5)
    yield dict(num_beams=3, max_new_tokens=1)
    yield dict(num_beams=3, max_new_tokens=2)
    yield dict(num_beams=4, repetition_penalty=1.3, max_new_tokens=12)
    yield dict(num_beams=4, length_penalty=-1.0, max_new_tokens=3)


def main(out):
    for name, extra in MODELS.items():
        torch.manual_seed(11)
        config = tf.BartConfig(**COMMON, **extra)
        config._attn_implementation = "eager"
        model = tf.BartForConditionalGeneration(config).eval()
        with torch.no_grad():
            for key, p in model.named_parameters():
                spread = 0.2 if p.dim() == 1 else 0.5
                p.copy_((1.0 if key.endswith("norm.weight") or "layernorm_embedding.weight" in key else 0.0)
                        + spread * torch.randn_like(p))
            # Answers that vary: positions weigh more than the token, which the tied head would repeat.
            model.model.shared.weight.copy_(0.35 * torch.randn_like(model.model.shared.weight))
            for stack in (model.model.encoder, model.model.decoder):
                stack.embed_positions.weight.copy_(1.2 * torch.randn_like(stack.embed_positions.weight))
            model.final_logits_bias.copy_(0.3 * torch.randn_like(model.final_logits_bias))
            model.final_logits_bias[0, 2] += 2.0 if name == "plain" else -0.5  # some answers end
        sources = [[0] + torch.randint(3, VOCAB, (n,)).tolist() + [2] for n in (1, 9, 40, 62)]
        cases = []
        with torch.no_grad():
            target = [2, 0, 17, 44, 5, 60, 17, 3, 91]
            for source in sources:
                ids = torch.tensor([source])
                case = {"source": source, "target": target,
                        "logits": model(input_ids=ids, decoder_input_ids=torch.tensor([target])).logits[0].tolist()}
                greedy = model.generate(ids, num_beams=1, do_sample=False, max_new_tokens=20)
                case["greedy"] = greedy[0].tolist()
                case["greedy_ngram"] = model.generate(ids, num_beams=1, do_sample=False, max_new_tokens=20,
                                                      no_repeat_ngram_size=2)[0].tolist()
                case["beams"] = []
                for how in settings():
                    got = model.generate(ids, do_sample=False, num_return_sequences=how["num_beams"],
                                         return_dict_in_generate=True, output_scores=True, **how)
                    case["beams"].append({"settings": how, "ids": got.sequences.tolist(),
                                          "scores": got.sequences_scores.tolist()})
                cases.append(case)
        path = os.path.join(out, name)
        os.makedirs(path, exist_ok=True)
        # The mean loss over two pairs of unlike lengths, each row predicting the next.
        model.zero_grad()
        pairs = [(sources[1], target), (sources[2], target[:5])]
        for source, answer in pairs:
            logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([answer[:-1]])).logits[0]
            torch.nn.functional.cross_entropy(logits, torch.tensor(answer[1:]), reduction="sum").backward()
        rows = sum(len(answer) - 1 for _, answer in pairs)
        gradients = {key: p.grad / rows for key, p in model.named_parameters()}
        save_file(gradients, os.path.join(path, "gradients.safetensors"))
        model.save_pretrained(path, safe_serialization=True)
        with open(os.path.join(path, "golden.json"), "w") as f:
            json.dump({"cases": cases, "pairs": pairs}, f)


main(sys.argv[1])
