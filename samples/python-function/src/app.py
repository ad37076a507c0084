"""An HTTP function: greets who it is told to. The host calls `handle` for each request."""

import os
from urllib.parse import parse_qs, urlsplit

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam


def greet(target: str) -> tuple[int, str]:
    """The answer to a path with its query."""
    url = urlsplit(target)
    if url.path != "/":
        return 404, "not found\n"
    name = parse_qs(url.query).get("name", ["world"])[0]
    return 200, f"{os.environ.get('GREETING', 'hello')}, {name}\n"


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        status, text = greet(request.path_with_query() or "/")
        content = text.encode()
        response = OutgoingResponse(
            Fields.from_list(
                [
                    ("content-type", b"text/plain; charset=utf-8"),
                    ("content-length", str(len(content)).encode()),
                ]
            )
        )
        response.set_status_code(status)
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with body.write() as stream:
            stream.blocking_write_and_flush(content)
        OutgoingBody.finish(body, None)
