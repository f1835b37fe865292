"""A small HTTP API: GET /species?page=1 gives 50 species by sample id, and where the next page is."""

import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

PAGE = 50
ITEMS = json.loads(Path(__file__).with_name("species.json").read_text(encoding="utf-8"))
PAGES = -(-len(ITEMS) // PAGE)


def answer(path):
    """Status and body for a path."""
    url = urlsplit(path)
    if url.path == "/healthz":
        return 200, {"status": "ok"}
    if url.path != "/species":
        return 404, {"error": f"there is no {url.path}; ask for /species?page=1"}
    page = parse_qs(url.query).get("page", ["1"])[0]
    if not page.isdecimal() or not 1 <= int(page) <= PAGES:
        return 400, {"error": f"page is {page}; it must be 1 to {PAGES}"}
    number = int(page)
    following = f"/species?page={number + 1}" if number < PAGES else None
    return 200, {"items": ITEMS[(number - 1) * PAGE : number * PAGE], "next": following}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        status, body = answer(self.path)
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    # The first process of a container gets no default action for TERM: without this, its Pod would end only by KILL.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server = ThreadingHTTPServer(("", int(sys.argv[1])), Handler)
    print(f"{len(ITEMS)} species on port {server.server_port}")
    server.serve_forever()
