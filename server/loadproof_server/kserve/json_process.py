"""Reads and writes long JSON in a process of its own, so that the event loop does not stand still.

Python's `json` holds the GIL: 64 MiB of numbers would stop both protocols for seconds, and a thread would not help.
What takes up to about 10 ms (128 KiB of text, or 32 KiB of raw floats to be written) is done in the event loop. The
process starts with the first long JSON, does one thing at a time in bounded memory and time, and ends when its standard
input does.
`python -m loadproof_server.kserve.json_process` is that process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

from loadproof_server.connections.http1_request import Reply
from loadproof_server.engine.specs import Answer
from loadproof_server.errors import ServingError, TooLarge, Unavailable
from loadproof_server.kserve import rest_messages
from loadproof_server.kserve.rest_messages import InferMessage

INLINE_TEXT_BYTES: Final = 1 << 17
INLINE_RAW_BYTES: Final = 1 << 15
MEMORY_BYTES: Final = 1 << 32
TIMEOUT_S: Final = 60.0
_SIZE_BYTES: Final = 8

Result = TypeVar("Result")


class JsonProcess:
    """Parses requests and encodes answers of any length; `close()` ends the process."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def parse(self, body: memoryview, header_length: bytes | None) -> InferMessage:
        """The request in `body`; `header_length` is the header Inference-Header-Content-Length."""
        text, binary = rest_messages.split(body, header_length)
        has_header = header_length is not None
        if len(text) <= INLINE_TEXT_BYTES:
            message = rest_messages.parse(text, len(binary), has_header=has_header)
        else:
            message = await self._run_in_process(rest_messages.parse_to_arrays, text, len(binary), has_header)
        if has_header:
            message.inputs[:] = rest_messages.with_binary(message.inputs, binary)
        return message

    async def encode(self, model: str, version: str, message: InferMessage, found: Answer) -> Reply:
        """The answer; raises InvalidRequest where an output has no JSON form."""
        content, raws = rest_messages.answer(model, version, message, found)
        if sum(map(len, raws.values())) <= INLINE_RAW_BYTES:
            text = rest_messages.render(content, raws)
        else:
            text = await self._run_in_process(rest_messages.render, content, raws)
        binary = [output.raw for position, output in enumerate(found.outputs) if position not in raws]
        return rest_messages.reply(text, binary)

    async def close(self) -> None:
        """Ends the process, if there is one."""
        process, self._process = self._process, None
        if process:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _run_in_process(self, function: Callable[..., Result], *arguments: Any) -> Result:
        async with self._lock:
            try:
                async with asyncio.timeout(self._timeout_s):
                    ok, result = await self._ask(pickle.dumps((function, arguments)))
            except TimeoutError:
                await self.close()
                raise TooLarge(f"JSON: not read within {self._timeout_s:.0f} s; send tensors as binary data") from None
            except (OSError, EOFError, RuntimeError):  # RuntimeError: uvloop raises it for a pipe that has closed
                await self.close()
                raise Unavailable("JSON: the process that reads it ended; try again, or send binary data") from None
            except BaseException:  # cancelled: the answer must not be taken for the next request's
                await self.close()
                raise
        if not ok:
            raise result
        return result  # type: ignore[no-any-return]

    async def _ask(self, request: bytes) -> Any:
        if self._process is not None and self._process.returncode is not None:  # it was killed
            await self.close()
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "loadproof_server.kserve.json_process"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # whose threads would reserve memory
            )
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(len(request).to_bytes(_SIZE_BYTES, "little"))
        self._process.stdin.write(request)
        await self._process.stdin.drain()
        size = int.from_bytes(await self._process.stdout.readexactly(_SIZE_BYTES), "little")
        return pickle.loads(await self._process.stdout.readexactly(size))


def main() -> None:
    """Answers requests from standard input until that ends."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a terminal sends it to both processes: the server decides when this one ends
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while size := requests.read(_SIZE_BYTES):
        answer = pickle.dumps(_answer(requests.read(int.from_bytes(size, "little"))))
        answers.write(len(answer).to_bytes(_SIZE_BYTES, "little"))
        answers.write(answer)
        answers.flush()
        del answer


def _answer(request: bytes) -> tuple[bool, Any]:
    try:
        function, arguments = pickle.loads(request)
        return True, function(*arguments)
    except ServingError as error:
        return False, error
    except MemoryError:
        return False, TooLarge(f"JSON: takes more than {MEMORY_BYTES} bytes to read; send tensors as binary data")


if __name__ == "__main__":
    main()
