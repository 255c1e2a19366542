"""A judge over HTTP that does what a script says: answers, errors, silence, garbage."""

import collections
import contextlib
import http.server
import json
import threading
import time


def completion(text: str, finish: str = "stop") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": 100, "completion_tokens": 7}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()


class ScriptedJudge:
    """`script(page text, how often it was asked before)` -> what is done: a function of the handler."""

    def __init__(self, script):
        self.script = script
        self.asked: collections.Counter[str] = collections.Counter()
        self.bodies, self.headers = [], []
        self.running = self.most_running = 0
        self.lock = threading.Lock()

    def handle(self, handler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        page = body["messages"][1]["content"].split("\n")[3]
        with self.lock:
            before = self.asked[page]
            self.asked[page] += 1
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        handler.unanswered = True
        try:
            self.script(page, before)(handler)
        finally:
            self.answers(handler)

    def answers(self, handler) -> None:
        """Counts a request out: before its first byte of answer, since the next request may follow on the last one."""
        with self.lock:
            self.running -= handler.unanswered
        handler.unanswered = False


def says(text: str, finish: str = "stop", seconds: float = 0.0):
    """An answer."""

    def act(handler):
        time.sleep(seconds)
        sends(200, completion(text, finish))(handler)

    return act


def sends(status: int, body: bytes = b"", headers=()):
    """A whole response."""

    def act(handler):
        handler.judge.answers(handler)
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return act


def cuts_off(body: bytes):
    """A response that ends before its announced length."""

    def act(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body) + 10))
        handler.end_headers()
        handler.wfile.write(body)

    return act


def trickles(seconds: float):
    """A response that never quite stops coming."""

    def act(handler):
        handler.send_response(200)
        handler.end_headers()
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)

    return act


def hangs_up(handler):
    """No response at all."""
    handler.close_connection = True


def waits(seconds: float):
    """Silence, then nothing."""
    return lambda handler: time.sleep(seconds)


@contextlib.contextmanager
def scripted_judge(script):
    """Yields `(url, judge)`."""
    judge = ScriptedJudge(script)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.judge = judge
            with contextlib.suppress(ConnectionError):
                judge.handle(self)

        def log_message(self, *args):
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request, client_address):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
