#!/usr/bin/env python3
"""Writes tests/golden/rouge.json: what PyPI's rouge-score says of texts, and the stems of NLTK's Porter stemmer that it
uses. Needs rouge-score.

    python tools/make_rouge_golden.py > tests/golden/rouge.json
"""
import json
import random

from nltk.stem import porter
from rouge_score import rouge_scorer

STEMS = ["", "a", "be", "tr", "y", "sky", "fl", "happ", "enjo", "plast", "motor", "hop", "tann", "fall", "hiss", "fizz", "fail", "fil",
         "conflat", "troubl", "siz", "relat", "condit", "valen", "hesit", "digit", "conform", "radic", "differ", "vile",
         "analog", "vietnam", "predic", "oper", "feud", "decis", "hope", "callous", "formal", "sensit", "sensib",
         "triplic", "form", "electr", "good", "reviv", "allow", "infer", "airlin", "gyroscop", "adjust", "defens",
         "irrit", "replac", "depend", "adopt", "homolog", "commun", "activ", "angular", "effect", "bowdler", "prob",
         "rat", "ceas", "controll", "roll", "geo", "apo", "bio", "us", "th", "pro", "exc", "ag", "b", "l", "gen", "2nd",
         "x86", "oo", "ay", "dyn", "syz", "art", "fu", "use", "w", "tow", "box", "play"]
SUFFIXES = ["", "s", "es", "ies", "sses", "ss", "eed", "ed", "ied", "ing", "y", "ational", "tional", "enci", "anci", "izer",
            "bli", "abli", "alli", "entli", "eli", "ousli", "ization", "ation", "ator", "alism", "iveness", "fulness",
            "ousness", "aliti", "iviti", "biliti", "fulli", "logi", "icate", "ative", "alize", "iciti", "ical", "ful",
            "ness", "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "sion",
            "tion", "ou", "ism", "ate", "iti", "ous", "ive", "ize", "e", "ll", "lly", "allies", "ologies", "fully"]
IRREGULAR = ["skies", "dying", "lying", "tying", "news", "innings", "inning", "outings", "outing", "cannings", "canning",
             "howe", "proceed", "exceed", "succeed", "ties", "dies", "died", "tied", "spied"]
EDGES = [["", "", ""], ["the cat", "", "x"], ["", "the cat", "a"], ["İstanbul 300K K!", "istanbul 300k k", "i stanbul"],
         ["naïve café", "na ve caf", "naive cafe"], ["a_b-c's", "a b c s", "abcs"], ["the the the", "the", "the the"]]


def main():
    random.seed(5)
    words = sorted({stem + suffix for stem in STEMS for suffix in SUFFIXES if stem + suffix} | set(IRREGULAR))
    stemmer = porter.PorterStemmer()
    texts = list(EDGES)
    for _ in range(40):
        some = random.sample(words, 12)
        texts.append([" ".join(random.choices(some, k=random.randint(1, 25))) for _ in range(3)])
        texts[-1][0] = texts[-1][0].title() + random.choice([".", "?!", "", " (x)"])
    names = ["rouge1", "rouge2", "rougeL"]
    scored = []
    for text, *references in texts:
        one = {"text": text, "references": references}
        for stem in (False, True):
            got = rouge_scorer.RougeScorer(names, use_stemmer=stem).score_multi(references, text)
            one["stemmed" if stem else "plain"] = [list(got[name]) for name in names]
        scored.append(one)
    print(json.dumps({"stems": [[word, stemmer.stem(word)] for word in words], "texts": scored}))


main()
