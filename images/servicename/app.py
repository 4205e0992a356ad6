"""The example service: asks two other services and a database, and says what they answered.

GET /         JSON: thing1, thing2, rds, the greeting, and which copy of the service this is.
              200 when all three answered, else 502 with the errors in their places.
GET /healthz  200 while the process serves.

It is configured the way services in a cluster are, and knows nothing of where it runs:
THING1_URL, THING2_URL, DATABASE_HOST/NAME/USER/PASSWORD, GREETING (a ConfigMap), COPY (a name for this copy).
With RELOAD=1 it starts anew when one of its own source files changes.
"""

import json
import os
import signal
import socket
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2

import reload

TIMEOUT = 5  # seconds that each of the three may take
PORT = int(os.environ.get("PORT", "8080"))


def thing(url):
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        return json.load(response)


def rds():
    connection = psycopg2.connect(
        host=os.environ["DATABASE_HOST"],
        dbname=os.environ["DATABASE_NAME"],
        user=os.environ["DATABASE_USER"],
        password=os.environ["DATABASE_PASSWORD"],
        connect_timeout=TIMEOUT,
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT current_user, now()::text, inet_client_addr()::text,"
                " (SELECT count(*) FROM orders), (SELECT item FROM orders ORDER BY id LIMIT 1)"
            )
            user, now, client, orders, first = cursor.fetchone()
        return {"user": user, "now": now, "client": client, "orders": orders, "first": first}
    finally:
        connection.close()


def attempt(ask, *arguments):
    """The answer, or the error as text; and whether it went well."""
    try:
        return ask(*arguments), True
    except Exception as error:  # noqa: BLE001 - whatever it was, the caller is to see it
        return f"{type(error).__name__}: {error}".strip(), False


def index():
    with ThreadPoolExecutor() as pool:
        asked = {
            "thing1": pool.submit(attempt, thing, os.environ.get("THING1_URL", "http://thing1/")),
            "thing2": pool.submit(attempt, thing, os.environ.get("THING2_URL", "http://thing2:9090/")),
            "rds": pool.submit(attempt, rds),
        }
    answers = {name: future.result() for name, future in asked.items()}
    body = {
        "service": "servicename",
        "copy": os.environ.get("COPY", "cluster"),
        "host": socket.gethostname(),
        "greeting": os.environ.get("GREETING", ""),
    }
    body.update({name: answer for name, (answer, _) in answers.items()})
    return (200 if all(fine for _, fine in answers.values()) else 502), body


class Busy:
    """Requests that are being answered; who ends waits for them."""

    def __init__(self):
        self.none = threading.Condition()
        self.count = 0

    def __enter__(self):
        with self.none:
            self.count += 1

    def __exit__(self, *_):
        with self.none:
            self.count -= 1
            self.none.notify_all()

    def wait(self, seconds):
        with self.none:
            self.none.wait_for(lambda: self.count == 0, seconds)


busy = Busy()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave together

    def do_GET(self):
        with busy:
            self.answer()

    def answer(self):
        if self.path == "/":
            self.reply(*index())
        elif self.path == "/healthz":
            self.reply(200, {"status": "ok"})
        else:
            self.reply(404, {"error": f"no such path: {self.path}"})

    def reply(self, status, body):
        payload = (json.dumps(body) + "\n").encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)
        self.wfile.flush()

    def log_message(self, template, *arguments):
        if self.path != "/healthz":
            super().log_message(template, *arguments)


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6  # and IPv4 with it
    daemon_threads = True
    request_queue_size = 1024

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def main():
    try:
        server = Server(("::", PORT), Handler)
    except OSError:  # a kernel without IPv6
        Server.address_family = socket.AF_INET
        Server.server_bind = ThreadingHTTPServer.server_bind
        server = Server(("0.0.0.0", PORT), Handler)
    # shutdown() waits for serve_forever(), which runs in the thread that gets the signals.
    stop = lambda *_: threading.Thread(target=server.shutdown).start()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    if os.environ.get("RELOAD") == "1":
        reload.start()
    print(f"listening on port {PORT}", file=sys.stderr)
    server.serve_forever(poll_interval=0.05)
    server.server_close()
    busy.wait(TIMEOUT)


if __name__ == "__main__":
    main()
