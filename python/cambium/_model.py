"""Models: loading, requests, scores, embeddings."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING, Any, Iterable, Mapping, NamedTuple, Optional, Sequence, Union

from . import _cambium
from ._cambium import Adapter, Constraint, UsageError
from ._generation import Generation

if TYPE_CHECKING:
    import numpy

Ids = Union[Sequence[int], "numpy.ndarray[Any, Any]"]
Graft = Union[str, "os.PathLike[str]", Adapter, tuple[Union[str, "os.PathLike[str]", Adapter], float]]
Grafts = Union[Graft, Sequence[Graft], None]
Messages = Union[str, Sequence[Mapping[str, Any]]]


class Score(NamedTuple):
    """How likely a text is."""

    ids: list[int]
    logprobs: Any  # float32 array: log p(ids[i + 1] | ids[0..i])
    loss: float  # mean negative log-likelihood, nats
    perplexity: float


class Tokenizer:
    """The model's own tokens."""

    def __init__(self, native: Any) -> None:
        self._native = native

    def encode(self, text: str, *, special: bool = False, add_bos: bool = True) -> list[int]:
        """Ids of a text. ``special``: special tokens spelled in it are those tokens, not text."""
        return self._native.encode(text, special, add_bos)

    def decode(self, ids: Ids) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self._native.decode(ids)

    def encode_chat(
        self,
        messages: Messages,
        *,
        add_generation_prompt: bool = True,
        tools: Optional[Sequence[Mapping[str, Any]]] = None,
        variables: Optional[Mapping[str, Any]] = None,
    ) -> list[int]:
        """Ids of messages in the model's chat template. Special tokens spelled in a message stay text."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return self._native.encode_chat(
            json.dumps(list(messages)),
            add_generation_prompt,
            json.dumps(list(tools)) if tools else "",
            json.dumps(dict(variables)) if variables else "",
        )

    def piece(self, id: int) -> bytes:
        """The bytes that one id adds to a text."""
        return self._native.piece(id)

    def is_end(self, id: int) -> bool:
        """Whether the model ends its texts with it."""
        return self._native.is_end(id)

    @property
    def vocab_size(self) -> int:
        """Ids are below it."""
        return self._native.info["vocab"]


class Model:
    """A loaded model that answers any number of requests at once; ``cambium.load`` makes it. All threads may use it.

    A forked child has not its threads: there every call raises ``UsageError``. Close it, or use it in a ``with``, to
    give its memory back at once.
    """

    def __init__(self, native: Any, engine: Any) -> None:
        self._native = native
        self._engine = engine
        self._adapters: dict[str, Adapter] = {}
        self.tokenizer = Tokenizer(native)

    @property
    def info(self) -> dict[str, Any]:
        """path, family, layers, hidden, vocab, context, weight_bytes, threads, load_ms."""
        return self._native.info

    @property
    def context(self) -> int:
        """Most tokens of a prompt and its answer."""
        return self._engine.context

    @property
    def closed(self) -> bool:
        return self._engine.closed

    def stats(self) -> dict[str, int]:
        """Counters of the engine: requests waiting and running, passes, rows, cache pages."""
        return self._engine.stats()

    def __repr__(self) -> str:
        return "<cambium.Model, closed>" if self.closed else f"<cambium.Model {self._native.describe()}>"

    def load_graft(self, path: Union[str, "os.PathLike[str]"]) -> Adapter:
        """A trained adapter, in any of the formats of docs/grafts.md. Grafts named by path load by themselves, once."""
        return Adapter.load(self._native, os.fspath(path))

    def _use(self, request: Any, grafts: Grafts) -> None:
        if grafts is None:
            return
        if isinstance(grafts, (str, os.PathLike, Adapter)):
            grafts = [grafts]
        elif isinstance(grafts, tuple) and len(grafts) == 2 and isinstance(grafts[1], (int, float)):
            grafts = [grafts]  # type: ignore[list-item]
        for graft in grafts:  # type: ignore[union-attr]
            what, scale = graft if isinstance(graft, tuple) else (graft, 1.0)
            if not isinstance(what, Adapter):
                path = os.fspath(what)
                if path not in self._adapters:
                    self._adapters[path] = self.load_graft(path)
                what = self._adapters[path]
            request.add_adapter(what, scale)

    def _ids(self, text: Union[str, Ids], special: bool = False) -> Ids:
        return self._native.encode(text, special, True) if isinstance(text, str) else text

    def constraint(
        self,
        *,
        json_schema: Union[Mapping[str, Any], bool, str, None] = None,
        regex: Optional[str] = None,
        choice: Optional[Sequence[str]] = None,
        grammar: Optional[str] = None,
    ) -> Constraint:
        """What an answer must be (docs/structured-output.md), compiled once for any number of requests."""
        given = [n for n, v in dict(json_schema=json_schema, regex=regex, choice=choice, grammar=grammar).items() if v is not None]
        if len(given) != 1:
            raise UsageError(f"one of json_schema, regex, choice and grammar is wanted, given: {', '.join(given) or 'none'}")
        if json_schema is not None:
            schema = json_schema if isinstance(json_schema, str) else json.dumps(json_schema)
            return Constraint.json_schema(self._native, schema)
        if regex is not None:
            return Constraint.regex(self._native, regex)
        if choice is not None:
            return Constraint.choice(self._native, list(choice))
        return Constraint.grammar(self._native, grammar)

    def generate(
        self,
        prompt: Union[str, Ids],
        *,
        max_tokens: Optional[int] = None,
        temperature: float = 0.8,
        top_p: float = 0.95,
        top_k: int = 40,
        min_p: float = 0.05,
        seed: Optional[int] = None,
        stop: Union[str, Sequence[str], None] = None,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        repeat_penalty: float = 1.0,
        repeat_last_n: int = 64,
        logit_bias: Optional[Mapping[int, float]] = None,
        logprobs: Union[bool, int, None] = None,
        prompt_logprobs: Optional[int] = None,
        min_tokens: int = 0,
        ignore_eos: bool = False,
        loop_guard: bool = False,
        grafts: Grafts = None,
        draft: Union[str, Sequence[str], None] = None,
        draft_rows: int = 64,
        verify: str = "match",
        constraint: Optional[Constraint] = None,
        json_schema: Union[Mapping[str, Any], bool, str, None] = None,
        regex: Optional[str] = None,
        choice: Optional[Sequence[str]] = None,
        grammar: Optional[str] = None,
        special: bool = False,
        cache_salt: str = "",
    ) -> Generation:
        """Continues a text, or ids. Returns at once; iterate the answer, or take its ``text()`` or ``result()``.

        max_tokens: None goes on until an end token or the end of the context.
        temperature: 0 is greedy. seed: None draws one; the same seed gives the same tokens in any company.
        logprobs: True for the drawn tokens', n for the n likeliest beside them.
        grafts: adapters that act on this request alone: a path, an Adapter, (one of them, scale), or several.
        draft: who drafts ahead, "auto" by default; drafts change no token with verify "match".
        constraint, json_schema, regex, choice, grammar: what the text must be.
        loop_guard: end an answer that repeats itself for ever, with finish_reason "repetition".
        special: special tokens spelled in the prompt are those tokens.
        """
        r = _cambium.Request()
        r.set_prompt(self._ids(prompt, special))
        r.max_tokens = -1 if max_tokens is None else max_tokens
        r.min_tokens = min_tokens
        r.temperature, r.top_p, r.top_k, r.min_p = temperature, top_p, top_k, min_p
        r.presence_penalty, r.frequency_penalty = presence_penalty, frequency_penalty
        r.repeat_penalty, r.repeat_last_n = repeat_penalty, repeat_last_n
        if logit_bias:
            r.logit_bias = dict(logit_bias)
        r.seed = random.SystemRandom().getrandbits(63) if seed is None else seed
        if stop is not None:
            r.stop = [stop] if isinstance(stop, str) else list(stop)
            if "" in r.stop:
                raise UsageError("stop: the string is empty")
        r.ignore_end = ignore_eos
        r.loop_guard = loop_guard
        if logprobs is not None and logprobs is not False:
            r.top_logprobs = 0 if logprobs is True else logprobs
        if prompt_logprobs is not None:
            r.prompt_logprobs = prompt_logprobs
        self._use(r, grafts)
        if draft is not None:
            r.draft = [draft] if isinstance(draft, str) else list(draft)
        r.draft_rows = draft_rows
        r.set_verify(verify)
        fields = dict(json_schema=json_schema, regex=regex, choice=choice, grammar=grammar)
        if any(value is not None for value in fields.values()):
            if constraint is not None:
                raise UsageError("constraint: given beside a field that binds the answer too; give one of them")
            constraint = self.constraint(**fields)  # type: ignore[arg-type]
        if constraint is not None:
            r.set_constraint(constraint)
        r.cache_salt = cache_salt
        return Generation(self._engine, r)

    def chat(
        self,
        messages: Messages,
        *,
        tools: Optional[Sequence[Mapping[str, Any]]] = None,
        variables: Optional[Mapping[str, Any]] = None,
        **options: Any,
    ) -> Generation:
        """Answers messages, or one user's text, in the model's chat template; the options of ``generate``."""
        ids = self.tokenizer.encode_chat(messages, tools=tools, variables=variables)
        return self.generate(ids, **options)

    def score(self, text: Union[str, Ids], *, grafts: Grafts = None) -> Score:
        """The log-probability of each token of a text behind the ones before it."""
        ids = [int(i) for i in self._ids(text)]
        if len(ids) < 2:
            raise UsageError(f"a score needs at least 2 tokens, the text has {len(ids)}")
        logprobs = self.generate(ids, max_tokens=0, prompt_logprobs=0, grafts=grafts, draft="none").result().prompt_logprobs
        loss = -float(logprobs.mean(dtype="float64"))
        import math

        return Score(ids, logprobs, loss, math.exp(loss))

    def embed(self, texts: Union[str, Ids, Sequence[str]], *, grafts: Grafts = None) -> Any:
        """float32 array [hidden] of a text: the mean of the last hidden states, of length 1; of several [n, hidden]."""
        many = not isinstance(texts, str) and len(texts) > 0 and isinstance(texts[0], str)
        answers = [self._embed(text, grafts) for text in (texts if many else [texts])]  # type: ignore[list-item]
        rows = [answer.result().embedding for answer in answers]
        if not many:
            return rows[0]
        import numpy

        return numpy.stack(rows)

    def _embed(self, text: Union[str, Ids], grafts: Grafts) -> Generation:
        r = _cambium.Request()
        r.set_prompt(self._ids(text))
        r.embed = True
        self._use(r, grafts)
        return Generation(self._engine, r)

    def close(self) -> None:
        """Ends what is under way and gives the memory back. Closing twice is no matter."""
        if not self._engine.closed:
            self._engine.close()
            self._native.close()
            self._adapters.clear()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(
    model: Union[str, "os.PathLike[str]"],
    *,
    threads: int = 0,
    context: int = 0,
    exact: bool = False,
    kv_type: str = "",
    parallel: int = 16,
    cache_tokens: int = 0,
    batch: bool = False,
) -> Model:
    """Loads a model: a GGUF file, a Hugging Face directory, a name in the cache, or an alias such as "smollm2".

    threads: 0 = every core that this process may use.
    context: most tokens of a prompt and its answer; 0 = the model's own, at most 4096.
    exact: fp32 activations and KV cache instead of int8 and f16.
    kv_type: storage of the KV cache: "f16", "f32" or "q8" (bytes with a scale for each 32).
    parallel: requests under way at once; more wait.
    batch: nobody reads along; prompts are read in whole passes, which gets more done and makes answers under way wait.
    """
    native = _cambium.Model.load(os.fspath(model), threads)
    return Model(native, _cambium.Engine.make(native, context, exact, kv_type, parallel, cache_tokens, batch))
