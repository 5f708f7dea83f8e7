"""sacrebleu's words and corpus BLEU for tests/bleu_test.cc.

usage: make_bleu_golden.py OUT.json     (needs sacrebleu)
"""
import json
import sys

import sacrebleu
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

LINES = ["The Blue Spice, near Crowne Plaza Hotel, is family-friendly.", "costs 3,000.50 (about £20-25) .", "a-b 1-2 3- -4",
         "&quot;Fitzbillies&quot; &amp; co &lt;b&gt; <skipped> end", "x.y,z 1.2 .5 5. ,a", "tab\there\u00a0and\u3000there  ",
         "it's 'quoted' [brackets] {braces} 50% $5 #1 a/b a\\b a|b c~d e^f_g`h", "naïve café, 日本。 ok.", "",
         "  leading and trailing  ", "...", "A.", "1,", "e.g., i.e. U.S.A.", "\u201cfancy\u201d quotes\u2014dash"]
CORPORA = [
    (["the cat is on the mat", "a small cheap place ."], [["the cat sat on the mat", "a cat is on a mat"], ["a small and cheap place ."]]),
    (["The Vaults is a pub by the river.", "Wildwood is a high priced pub.", "x"],
     [["The Vaults is a pub near the river.", "Near the river is The Vaults, a pub."], ["Wildwood, a pub, is high priced."], ["y", "x"]]),
    (["completely different words"], [["nothing shared at all here"]]),
    (["one two"], [["one two"]]),
    (["one two three four"], [["one two three four"]]),
    (["one two three five six"], [["one two three four", "one two three four five six seven"]]),
    (["", "a b c d e"], [["some words"], ["a b c d e"]]),
    (["a b c x d e f y g"], [["a b c d e f g h i j k l"]]),
]
tokenizer = Tokenizer13a()
corpora = []
for hypotheses, references in CORPORA:
    most = max(map(len, references))
    streams = [[r[i] if i < len(r) else None for r in references] for i in range(most)]
    b = sacrebleu.corpus_bleu(hypotheses, streams)
    corpora.append({"hypotheses": hypotheses, "references": references, "score": b.score, "precisions": b.precisions,
                    "bp": b.bp, "sys_len": b.sys_len, "ref_len": b.ref_len})
words = [{"line": line, "words": tokenizer(line.rstrip()).split()} for line in LINES]
with open(sys.argv[1], "w") as out:
    json.dump({"words": words, "corpora": corpora}, out, indent=1)
    out.write("\n")
