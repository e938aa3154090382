"""Writes docs/errors.md from the catalogue: python -m service.api.error_page docs/errors.md"""

import sys
from pathlib import Path

from service import errors
from service.api.catalogue import CATALOGUE
from service.api.problems import ROUTER_CODES

# Only parents of others: they are never raised themselves.
ABSTRACT = (errors.ClientError, errors.Unavailable)

HEAD = """# Errors

Made from the code by `python -m service.api.error_page docs/errors.md`; a test compares them.

A code is stable, and the same on every wire: `code` of an answer over HTTP (problem+json, RFC 9457)
and of OpenAI's `error`; `reason` of gRPC's `ErrorInfo` (in upper case, domain `diffplugin`);
`error.code` of a job, of its events and of its webhooks. The message beside it says what to change.

"""


def render() -> str:
    """The page, in Markdown."""
    lines = ["| code | HTTP | gRPC | what it says | what to do |", "|---|---|---|---|---|"]
    for kind, status in CATALOGUE.items():
        if kind not in ABSTRACT:
            cells = (f"`{kind.code}`", status.http, status.grpc.name, kind.title, kind.remedy)
            lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += ["", "The router's own, over HTTP alone:", "", "| code | HTTP | what it says |"]
    lines.append("|---|---|---|")
    lines += [f"| `{code}` | {http} | {title} |" for http, (code, title) in ROUTER_CODES.items()]
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render())
