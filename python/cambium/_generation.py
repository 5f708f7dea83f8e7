"""An answer under way, for plain iteration and for asyncio."""

from __future__ import annotations

import os
import weakref
from typing import Any, AsyncIterator, Generator, Iterator, NamedTuple, Optional

from . import _cambium
from ._cambium import Event


class Result(NamedTuple):
    """A whole answer."""

    text: str
    ids: list[int]
    finish_reason: str  # "stop", "length", "repetition" or "cancelled"
    stopped_by: str  # the stop string or the end token's piece
    logprobs: list[float]  # of each id, where asked for
    top_logprobs: list[list[tuple[int, float]]]  # the likeliest ids there, highest first
    prompt_logprobs: Any  # float32 array of the prompt's ids but the first, where asked for
    prompt_top_logprobs: list[list[tuple[int, float]]]
    embedding: Any  # float32 array, of Model.embed
    timings: dict[str, Any]
    draft: dict[str, Any]


class _Waker:
    """Wakes the futures of one event loop when the engine's thread has something for one of them."""

    def __init__(self, loop: Any) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.waiting: list[Any] = []
        loop.add_reader(self.fd, _Waker.wake, weakref.ref(self))

    @staticmethod
    def wake(ref: Any) -> None:
        self = ref()
        if self is None:
            return
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def until(self, loop: Any, stream: Any) -> None:
        """Until there may be something in the stream."""
        if not stream.wake(self.fd):
            return
        future = loop.create_future()
        self.waiting.append(future)
        await future

    def __del__(self) -> None:
        os.close(self.fd)


_wakers: "weakref.WeakKeyDictionary[Any, _Waker]" = weakref.WeakKeyDictionary()


class Generation:
    """An answer under way. It began when it was made, and goes on whether or not it is looked at; dropping it ends it.

    Iterate for pieces of text (``for`` or ``async for``), over ``events()`` for tokens and log-probabilities, or take
    the whole with ``text()`` or ``result()``, or ``await`` it.
    """

    def __init__(self, engine: Any, request: Any) -> None:
        self._engine = engine
        self._id, self._stream = engine.submit(request)
        self._waker: Optional[_Waker] = None
        self._over = False

    def _next(self, wait: bool) -> Optional[Event]:
        try:
            return self._stream.next(wait)
        except BaseException:  # KeyboardInterrupt too: nobody will take the rest
            self.cancel()
            raise

    def events(self) -> Iterator[Event]:
        """Each token as it comes."""
        while (event := self._next(True)) is not None:
            yield event

    def __iter__(self) -> "Generation":
        return self

    def __next__(self) -> str:
        while (event := self._next(True)) is not None:
            if event.text:
                return event.text
        raise StopIteration

    async def async_events(self) -> AsyncIterator[Event]:
        """Each token as it comes, for ``async for``."""
        import asyncio

        loop = asyncio.get_running_loop()
        self._waker = _wakers.get(loop)
        if self._waker is None:
            self._waker = _wakers[loop] = _Waker(loop)
        try:
            while True:
                event = self._next(False)
                if event is not None:
                    yield event
                elif self._stream.ended:
                    return
                else:
                    await self._waker.until(loop, self._stream)
        except BaseException:  # a cancelled task, an iterator dropped half way
            self.cancel()
            raise

    async def __aiter__(self) -> AsyncIterator[str]:
        async for event in self.async_events():
            if event.text:
                yield event.text

    async def _finish(self) -> Result:
        async for _ in self.async_events():
            pass
        return self.result()

    def __await__(self) -> Generator[Any, None, Result]:
        return self._finish().__await__()

    def result(self) -> Result:
        """The whole answer; waits for it."""
        try:
            whole = self._stream.result()
        except BaseException:
            self.cancel()
            raise
        self._over = True
        return Result(**{name: whole.get(name) for name in Result._fields})

    def text(self) -> str:
        """The whole text; waits for it."""
        return self.result().text

    def cancel(self) -> None:
        """Ends it before the next pass. What it had so far can be taken."""
        if self._over:
            return
        self._over = True
        self._stream.wake(-1)
        if not self._stream.ended and not self._engine.closed:
            try:
                self._engine.cancel(self._id)
            except _cambium.Error:
                pass  # closed meanwhile, or the process was forked

    close = cancel

    def __enter__(self) -> "Generation":
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            try:
                self.cancel()
            except Exception:  # the interpreter ends
                pass
