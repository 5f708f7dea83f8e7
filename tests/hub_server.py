#!/usr/bin/env python3
"""A small Hugging Face-like hub for hub_test.cc: hub_server.py ROOT; prints its port, then one line a request.

ROOT/<org>/<name>/<file> are the files. Large ones (*.gguf, *.safetensors) are described by X-Linked-* headers and a
redirect to /storage, as the hub does with LFS. ROOT/behaviour says what goes wrong: "cut" ends every first download of a
file half way, "norange" ignores Range, "corrupt" changes a byte, "private" asks for the token "secret",
"evil" lists a file "../../evil.gguf", "badetag" sends an etag with a slash, "huge" promises more than it sends.
"""
import hashlib
import http.server
import json
import pathlib
import sys

ROOT = pathlib.Path(sys.argv[1])
COMMIT = "0123456789abcdef0123456789abcdef01234567"
cut = set()


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        behaviour = (ROOT / "behaviour").read_text().split() if (ROOT / "behaviour").exists() else []
        token = self.headers.get("Authorization", "")
        print(self.command, self.path, self.headers.get("Range", "-"), token or "-", flush=True)
        parts = self.path.strip("/").split("/")
        if "private" in behaviour and parts[0] != "storage" and token != "Bearer secret":
            return self.answer(401)
        if parts[:2] == ["api", "models"]:
            folder = ROOT / parts[2] / parts[3]
            if not folder.is_dir():
                return self.answer(404)
            names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
            if "evil" in behaviour:
                names = ["../../evil.gguf"]
            return self.answer(200, json.dumps({"sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}).encode())
        storage = parts[0] == "storage"
        path = ROOT.joinpath(*(parts[1:] if storage else parts[:2] + parts[4:]))
        if not path.is_file():
            return self.answer(404)
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if not storage and path.suffix in (".gguf", ".safetensors"):
            etag = '"../../x"' if "badetag" in behaviour else f'"{digest}"'
            size = len(data) + 10 if "huge" in behaviour else len(data)
            target = "/storage/" + str(path.relative_to(ROOT))
            return self.answer(302, Location=target, X_Linked_Etag=etag, X_Linked_Size=str(size))
        if not storage and self.command == "HEAD":
            return self.answer(200, Content_Length=str(len(data)), ETag='W/"' + hashlib.sha1(data).hexdigest() + '"')
        begin = 0
        status, extra = 200, {}
        wanted = self.headers.get("Range")
        if wanted and "norange" not in behaviour:
            begin = int(wanted.removeprefix("bytes=").rstrip("-"))
            status, extra = 206, {"Content_Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}
        if "corrupt" in behaviour:
            data = bytes([data[0] ^ 1]) + data[1:]
        body = data[begin:]
        if "cut" in behaviour and path not in cut:
            cut.add(path)
            self.answer(status, body[:len(body) // 2], Content_Length=str(len(body)), **extra)
            self.close_connection = True
            return None
        return self.answer(status, body, **extra)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
print(server.server_address[1], flush=True)
server.serve_forever()
