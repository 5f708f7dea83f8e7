#!/usr/bin/env python3
"""Writes tests/golden/tokenizer_pipelines.json: make_pipeline_golden.py OUT_DIR      (needs tokenizers)

Small BPE models, and around them what a tokenizer.json holds besides: normalizers, pre-tokenizers, post-processors,
decoders and added tokens in many combinations, with the ids and the decoded texts of Hugging Face tokenizers.
A pipeline without its model is what a variant stores; `models` holds each model once.
"""
import json
import os
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

CORPUS = ["the cat sat on the mat", "the big cat of the house said hi hello",
          "hello world, it's 12345 o'clock", "a  doubled   space and a\nline\n\nanother", "word words sword wordy",
          "naïve café", "of the of the in the"] * 4
SPECIALS = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
MARK = "\u2581"
TEXTS = ["", " ", "  ", "   ", "hi", " hi", "  hi", "hi ", "hi  ", " hi  there ", "hello world",
         "hello  world", "\nhi", " \n hi", "hi\n\nhello", "\n\n", "<s>", "<s>hi", "<s> hi", " <s>hi", "hi<s>",
         "hi <s> hi", "<s>[INST] hi[/INST] ok</s>", "<s>[INST]  hi [/INST]ok </s><s>", "[INST][INST]",
         "x<tool>y", " <tool> ", "<tool>the", "<tool> the", "a <tool>  b", "the big cat sat", "big cat",
         "bigcat big  cat", " big cat big cat", "big cat<s>big cat", "thebig catsat", "word",
         "words word sword", "word.word,word", "wordé word_ word1 word½", "éword", "a <mask> b", "a<mask>b",
         "  <mask>  ", "<mask><mask>", "a <both>  b", "a\n <both>\u00a0\u3000b", "a <pad>   <pad> b", "<pad> ",
         "nword nwords nword", "(nword)", "a  <nl>  b", "<nl>", " the the", f"{MARK}the",
         f"{MARK}{MARK}the {MARK}", f"a{MARK}b c", "it's 123 4567", "café naïve e\u0301 \u00e9", "日本 語",
         "😀 hi", "tab\there", "of the of the", "the  of   the", "trailing the ", "big" + MARK + "cat",
         "<s>  <s>", "zzz qqq ZZ", "Zoë ßß ß", "a\u00a0b", "\r\n hi", "<unk> hi", "hi <unk>"]


def token(content, special=False, normalized=False, lstrip=False, rstrip=False, single_word=False):
    return dict(content=content, special=special, normalized=normalized, lstrip=lstrip, rstrip=rstrip,
                single_word=single_word)


PLAIN = [token(s, special=True) for s in SPECIALS]
RICH = PLAIN + [token("<tool>", normalized=True), token("big cat", normalized=True),
                token("<mask>", special=True, lstrip=True), token("<pad>", special=True, rstrip=True),
                token("<both>", lstrip=True, rstrip=True),
                token("word", single_word=True), token("nword", single_word=True, normalized=True),
                token("<nl>", normalized=True, lstrip=True, rstrip=True), token("\n\n")]
RUNS = PLAIN + [token(MARK * 2), token("\n"), token("<tool>")]  # Gemma has runs of spaces among its added tokens


def seq(kind, *steps):
    names = {"normalizer": "normalizers", "pre": "pretokenizers", "post": "processors", "decoder": "decoders"}
    return {"type": "Sequence", names[kind]: list(steps)}


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": split}


def replace(old, new):
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


COLLAPSE = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
COLLAPSE_MARK = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": MARK}
PREPEND = {"type": "Prepend", "prepend": MARK}
NFC = {"type": "NFC"}
STRIP = {"type": "Strip", "strip_left": True, "strip_right": True}
STRIP_RIGHT = {"type": "Strip", "strip_left": False, "strip_right": True}
FALLBACK = [replace(MARK, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]
LLAMA_DECODER = seq("decoder", *FALLBACK, {"type": "Strip", "content": " ", "start": 1, "stop": 0})


def meta_decoder(scheme):
    return seq("decoder", metaspace(scheme, True), {"type": "ByteFallback"}, {"type": "Fuse"})


def byte_level(prefix=False, regex=True):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def around(before, after):
    """TemplateProcessing with these tokens before and after the text."""
    special = [{"SpecialToken": {"id": name, "type_id": 0}} for name in before]
    single = special + [{"Sequence": {"id": "A", "type_id": 0}}]
    single += [{"SpecialToken": {"id": name, "type_id": 0}} for name in after]
    table = {name: {"id": name, "ids": [SPECIALS.index(name)], "tokens": [name]} for name in before + after}
    return {"type": "TemplateProcessing", "single": single,
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": table}


BOS = around(["<s>"], [])
ROBERTA = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": True,
           "add_prefix_space": False}
BERT = {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["[INST]", 3]}


def train(pre, vocab, special, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    corpus = CORPUS
    if pre is None:  # pieces may hold inner spaces
        corpus = [text.replace(" ", MARK) for text in CORPUS]
    else:
        tokenizer.pre_tokenizer = pre
    alphabet = pre_tokenizers.ByteLevel.alphabet() if isinstance(pre, pre_tokenizers.ByteLevel) else []
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=vocab, special_tokens=special,
                                                              initial_alphabet=alphabet, show_progress=False))
    return json.loads(tokenizer.to_str())["model"]


def make_models():
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    options = dict(unk_token="<unk>", fuse_unk=True)
    spaced = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    result = {
        "words": train(spaced, 380, SPECIALS + bytes_, byte_fallback=True, **options),
        "glued": train(None, 400, SPECIALS + bytes_ + [MARK * 2, "\n"], byte_fallback=True, **options),
        "nobytes": train(spaced, 120, SPECIALS, **options),
        "bytelevel": train(pre_tokenizers.ByteLevel(add_prefix_space=False), 340, SPECIALS),
    }
    result["glued"]["merges"].insert(0, [MARK, MARK])  # ends in an added token
    result["unfused"] = {**result["nobytes"], "fuse_unk": False}
    result["nounk"] = {**result["nobytes"], "unk_token": None}
    return result


def variants():
    for model in ("words", "glued"):
        for scheme in ("always", "never", "first"):
            for cut in (True, False):
                yield (f"{model}-{scheme}-{'split' if cut else 'whole'}", model, RICH,
                       dict(pre_tokenizer=metaspace(scheme, cut), post_processor=BOS, decoder=LLAMA_DECODER))
        llama2 = seq("normalizer", PREPEND, replace(" ", MARK))
        yield f"{model}-llama2", model, RICH, dict(normalizer=llama2, post_processor=BOS, decoder=LLAMA_DECODER)
        yield f"{model}-replace", model, RUNS, dict(normalizer=replace(" ", MARK), decoder=seq("decoder", *FALLBACK),
                                                    pre_tokenizer=split({"String": " "}, "MergedWithPrevious"))
        yield f"{model}-replace-rich", model, RICH, dict(normalizer=replace(" ", MARK),
                                                         decoder=seq("decoder", *FALLBACK))
        yield f"{model}-nfc-first", model, RICH, dict(normalizer=NFC, pre_tokenizer=metaspace("first", False),
                                                      decoder=meta_decoder("first"))
        yield f"{model}-extra", model, RICH, dict(
            normalizer=seq("normalizer", STRIP, COLLAPSE, PREPEND, replace(" ", MARK)), decoder=LLAMA_DECODER)
        yield f"{model}-extra-meta", model, PLAIN, dict(
            normalizer=seq("normalizer", STRIP_RIGHT, COLLAPSE_MARK), pre_tokenizer=metaspace("always", True),
            decoder=meta_decoder("always"))
    yield "words-old-prefix", "words", RICH, dict(
        pre_tokenizer={"type": "Metaspace", "replacement": MARK, "add_prefix_space": True},
        decoder=meta_decoder("always"))
    yield "words-old-none", "words", RICH, dict(
        pre_tokenizer={"type": "Metaspace", "replacement": MARK, "add_prefix_space": False, "prepend_scheme": "never"},
        decoder=meta_decoder("never"))
    yield "words-old-str-rep", "words", PLAIN, dict(
        pre_tokenizer={"type": "Metaspace", "replacement": MARK, "str_rep": MARK, "add_prefix_space": True,
                       "prepend_scheme": "first"}, decoder=meta_decoder("first"))
    yield "words-digits", "words", PLAIN, dict(pre_tokenizer=seq("pre", metaspace("first", True), digits(True)),
                                               decoder=LLAMA_DECODER)
    yield "words-digits-before", "words", PLAIN, dict(
        pre_tokenizer=seq("pre", digits(False), metaspace("first", False)), decoder=LLAMA_DECODER)
    for model in ("nobytes", "unfused", "nounk"):
        yield f"{model}-first", model, RICH, dict(pre_tokenizer=metaspace("first", False), post_processor=BOS,
                                                  decoder=LLAMA_DECODER)
    for name, post in (("eos", around(["<s>"], ["</s>"])), ("two", around(["<s>", "[INST]"], ["[/INST]", "</s>"])),
                       ("roberta", ROBERTA), ("bert", BERT), ("none", None), ("nothing", around([], [])),
                       ("sequence", seq("post", byte_level(), BOS)), ("nested", seq("post", BERT, BOS))):
        yield f"post-{name}", "words", PLAIN, dict(pre_tokenizer=metaspace("first", False), post_processor=post,
                                                   decoder=LLAMA_DECODER)
        yield f"post-{name}-bytes", "bytelevel", PLAIN, dict(pre_tokenizer=byte_level(), post_processor=post,
                                                             decoder=byte_level())
    for prefix in (True, False):
        for regex in (True, False):
            yield (f"bytes-{'prefix' if prefix else 'plain'}-{'regex' if regex else 'whole'}", "bytelevel", RICH,
                   dict(pre_tokenizer=byte_level(prefix, regex), decoder=byte_level(True)))
    yield "bytes-nfc", "bytelevel", RICH, dict(normalizer=NFC, pre_tokenizer=byte_level(True), decoder=byte_level())
    yield "bytes-prepend", "bytelevel", RICH, dict(normalizer={"type": "Prepend", "prepend": " "},
                                                   pre_tokenizer=byte_level(), decoder=byte_level())
    yield "bytes-strip", "bytelevel", RICH, dict(normalizer=seq("normalizer", STRIP, COLLAPSE),
                                                 pre_tokenizer=byte_level(True), decoder=byte_level())
    yield "bytes-digits", "bytelevel", RICH, dict(pre_tokenizer=seq("pre", digits(False), byte_level()),
                                                  decoder=byte_level())
    yield "bytes-literal", "bytelevel", RICH, dict(
        pre_tokenizer=seq("pre", split({"String": "the"}), split({"Regex": r"\d"}, invert=True),
                          byte_level(regex=False)),
        decoder=byte_level())


def main():
    kept = make_models()
    result = {"models": kept, "texts": TEXTS, "variants": []}
    for name, model, added, pipeline in variants():
        vocab = kept[model]["vocab"]
        tokens, following = [], max(vocab.values()) + 1
        for entry in added:
            known = vocab.get(entry["content"])
            tokens.append({"id": following if known is None else known, **entry})
            following += known is None
        tokens.sort(key=lambda token: token["id"])
        stored = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens,
                  "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None, **pipeline}
        tokenizer = Tokenizer.from_str(json.dumps({**stored, "model": kept[model]}))
        cases = []
        for text in TEXTS:
            ids = tokenizer.encode(text).ids
            cases.append([ids, tokenizer.decode(ids, skip_special_tokens=False), tokenizer.decode(ids)])
        result["variants"].append({"name": name, "model": model, "tokenizer": stored, "cases": cases})
    with open(os.path.join(sys.argv[1], "tokenizer_pipelines.json"), "w") as out:
        json.dump(result, out, separators=(",", ":"), ensure_ascii=False)


if __name__ == "__main__":
    main()
