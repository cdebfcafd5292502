"""Sending big files without keeping DHCP waiting.

aiohttp hands a whole file to one `loop.sendfile`, and while the socket takes all it gets, the
event loop stands still: up to 450 ms for 1 GiB. Here it goes in steps, with a turn of the loop
after each, at no cost in throughput.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import IO, Any

from aiohttp import ETag, web
from aiohttp.abc import AbstractStreamWriter

from bootnode.files import BytesSource, JoinedFiles, OpenFile, Span

STEP_BYTES = 1 << 20
"""One sendfile call: 1 to 4 ms at memory speed; smaller ones cost throughput and spare nobody."""

CONTENT_TYPES = {
    # UEFI HTTP Boot goes by exactly this type, without a charset (UEFI 2.10 section 24.7.4.2).
    ".efi": "application/efi",
    ".iso": "application/vnd.efi-iso",
    ".img": "application/vnd.efi-img",
    ".ipxe": "text/plain",
    ".txt": "text/plain",
    ".json": "application/json",
}


class SteppedFileResponse(web.FileResponse):
    """A file with HEAD, Range and conditional requests, sent in bounded steps."""

    def __init__(self, path: Path) -> None:
        # A type of our own keeps aiohttp from guessing: it would call x.gz an encoding of x, and
        # iPXE takes bodies as they come.
        content_type = CONTENT_TYPES.get(path.suffix.lower(), "application/octet-stream")
        super().__init__(path, headers={"Content-Type": content_type})
        self.bytes_sent = 0
        """Bytes of the body handed to the kernel so far."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send it; done once, though aiohttp asks again when a handler returns what it has sent."""
        if self.prepared:
            return await web.StreamResponse.prepare(self, request)
        return await super().prepare(request)

    async def _start(self, request: web.BaseRequest) -> AbstractStreamWriter:
        """Overrides where aiohttp writes the head: without a length, errors would be chunked."""
        if self.status >= 400:
            self.content_length = 0
        return await super()._start(request)

    def _get_file_path_stat_encoding(
        self,
        accept_encoding: str,  # noqa: ARG002  # aiohttp's signature
    ) -> tuple[Path | None, os.stat_result, str | None]:
        """Overrides aiohttp's search for x.gz beside x: what was asked for is what is sent."""
        return super()._get_file_path_stat_encoding("")

    async def _sendfile(
        self, request: web.BaseRequest, fobj: IO[Any], offset: int, count: int
    ) -> AbstractStreamWriter:
        """Overrides aiohttp's one call for the whole file; kept honest by a test."""
        writer = await web.StreamResponse.prepare(self, request)
        if writer is None:
            raise ConnectionResetError("the client has gone")
        async for sent in send_in_steps(request, fobj, offset, count):
            self.bytes_sent += sent
        await web.StreamResponse.write_eof(self)
        return writer


class JoinedResponse(web.StreamResponse):
    """Several files and bytes as one, with HEAD, Range and conditional requests."""

    def __init__(self, content: JoinedFiles, *, content_type: str) -> None:
        """`content` is closed when it was sent."""
        super().__init__(headers={"Content-Type": content_type, "Accept-Ranges": "bytes"})
        self._content = content
        self.etag = content.tag
        self.bytes_sent = 0
        """Bytes of the body handed to the kernel so far."""

    async def send(self, request: web.BaseRequest) -> None:
        """Send it; has returned when the last byte was handed to the kernel."""
        try:
            offset, count = self._choose(request)
            self.content_length = count
            writer = await self.prepare(request)
            if writer is None:
                raise ConnectionResetError("the client has gone")
            if request.method != "HEAD":
                for span in self._content.spans(offset, count):
                    await self._send_span(request, span)
            await self.write_eof()
        finally:
            self._content.close()

    def _choose(self, request: web.BaseRequest) -> tuple[int, int]:
        """Set the status; return where the body begins and how long it is (RFC 9110)."""
        size = self._content.size
        if request.if_match is not None and not self._is_among(request.if_match):
            self.set_status(412)
            return 0, 0
        if request.if_none_match is not None and self._is_among(request.if_none_match):
            self.set_status(304)
            return 0, 0
        wanted = self._range(request)
        if wanted is None:
            return 0, size
        first, last, _ = wanted.indices(size)
        if first >= size or last <= first:
            self.set_status(416)
            self.headers["Content-Range"] = f"bytes */{size}"
            return 0, 0
        self.set_status(206)
        self.headers["Content-Range"] = f"bytes {first}-{last - 1}/{size}"
        return first, last - first

    def _range(self, request: web.BaseRequest) -> slice | None:
        """The one range that counts; several, and what is malformed, count as none."""
        tag = f'"{self._content.tag}"'
        # A condition on the range may be a date too, but we have none.
        if request.method != "GET" or request.headers.get("If-Range", tag) != tag:
            return None
        try:
            wanted = request.http_range
        except ValueError:
            return None
        return wanted if wanted.start is not None else None

    def _is_among(self, tags: Iterable[ETag]) -> bool:
        return any(tag.value in ("*", self._content.tag) for tag in tags)

    async def _send_span(self, request: web.BaseRequest, span: Span) -> None:
        if isinstance(span.source, BytesSource):
            await self.write(span.source.read(span.offset, span.length))
            self.bytes_sent += span.length
            return
        async for sent in send_in_steps(request, span.source, span.offset, span.length):
            self.bytes_sent += sent


async def send_in_steps(
    request: web.BaseRequest, file: IO[Any] | OpenFile, offset: int, count: int
) -> AsyncIterator[int]:
    """Send a part of a file as the body or within it, and yield the bytes of each step.

    Raises:
        ConnectionResetError: the client has gone, or the file ends before the part does.
    """
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client has gone")
    loop = asyncio.get_running_loop()
    end = offset + count
    while offset < end:
        step = min(STEP_BYTES, end - offset)
        sent = await loop.sendfile(transport, file, offset, step)  # type: ignore[arg-type]
        if sent != step:
            # Shorter than the Content-Length that was promised: the connection must break,
            # or the client would take the next response for the rest of this one.
            transport.abort()
            raise ConnectionResetError(f"{file.name} shrank while it was sent")
        offset += sent
        yield sent
