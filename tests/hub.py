"""A local fake of the Hub's HTTP interface."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler

COMMIT = "c" * 40


class FakeHub(BaseHTTPRequestHandler):
    """The requests that create a repository, commit to it, and read a model."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, code, body=b"", **headers):
        body = json.dumps(body).encode() if isinstance(body, dict | list) else body
        self.send_response(code)
        for name, value in {"Content-Length": len(body), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        state = self.server.state
        if self.headers.get("Authorization") != "Bearer secret":
            return self.reply(401, {"error": "who are you?"})
        if self.path == "/api/repos/create":
            state["created"] = json.loads(body)
            return self.reply(200, {"url": f"{self.server.url}/user/name"})
        if "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.reply(200, {"files": files})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    state["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            response = {
                "commitUrl": f"{self.server.url}/user/name/commit/{COMMIT}",
                "commitOid": COMMIT,
                "success": True,
            }
            return self.reply(200, response)
        return self.reply(200, {})

    def do_GET(self):
        files = self.server.state["files"]
        if match := re.match(r"/user/name/resolve/\w+/(.+)", self.path):
            content = files.get(match.group(1))
            if content is None:
                return self.reply(404, X_Error_Code="EntryNotFound")
            return self.reply(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"')
        if self.path.startswith("/api/models/user/name"):
            siblings = [{"rfilename": name} for name in files]
            tree = [{"type": "file", "path": n, "size": len(c), "oid": "0"} for n, c in files.items()]
            response = tree if "/tree/" in self.path else {"id": "user/name", "sha": COMMIT, "siblings": siblings}
            return self.reply(200, response)
        return self.reply(404, {"error": "nothing here"})

    do_HEAD = do_GET
