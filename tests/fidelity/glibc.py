"""Rows that the static probe cannot carry out: names through glibc, and a client of the API server.

usage: python3 -c THIS NAMESPACE DATABASE
"""

import json
import os
import pathlib
import socket
import ssl
import sys
import threading
import urllib.request

NAMESPACE, DATABASE = sys.argv[1:]
ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")


def row(name, carry_out, *arguments):
    try:
        says = str(carry_out(*arguments))
    except socket.gaierror as error:
        says = {getattr(socket, it): it for it in dir(socket) if it.startswith("EAI_")}.get(error.errno, str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is, the other place is to say the same
        says = f"{type(error).__name__}: {error}"
    for place in ("POD_IP", "POD_NAME"):
        says = says.replace(os.environ.get(place) or "\0", f"<{place}>")
    print(json.dumps({"row": name, "says": says}), flush=True)


def addresses(name, family):
    return " ".join(sorted({it[4][0] for it in socket.getaddrinfo(name, 80, family, socket.SOCK_STREAM)}))


def at_once(names):
    """Lookups of many threads do not disturb one another."""
    answers = {}
    look = lambda name: answers.update({name: addresses(name, socket.AF_UNSPEC)})
    threads = [threading.Thread(target=look, args=[name]) for name in names * 10]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return f"{len(answers)} of {len(names)} names"


def api(path):
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    request = urllib.request.Request(
        f"https://{host}:{port}{path}", headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"}
    )
    context = ssl.create_default_context(cafile=ACCOUNT / "ca.crt")
    with urllib.request.urlopen(request, timeout=20, context=context) as response:
        return json.load(response)


def ping():
    """Here the pod may not: it has no right to it, and the node's kernel gives nobody a ping socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as it:
        it.settimeout(2)
        it.sendto(bytes([8, 0, 0xF7, 0xFD, 0, 1, 0, 1]), (socket.gethostbyname("db-0.db"), 0))
        return f"{len(it.recv(100))} bytes came back"


def own_pod():
    pod = api(f"/api/v1/namespaces/{(ACCOUNT / 'namespace').read_text()}/pods/{os.environ['POD_NAME']}")
    return f"{pod['metadata']['name']} at {pod['status']['podIP']}"


NAMES = [
    "peer", f"peer.{NAMESPACE}", f"peer.{NAMESPACE}.svc.cluster.local", f"peer.{NAMESPACE}.svc.cluster.local.", "peers",
    "db-0.db", "alias", "database", "empty", "thing1", "thing1.staging", "kubernetes.default.svc", DATABASE, "localhost",
    "nowhere",
]  # fmt: skip
for each in NAMES:
    row(f"glibc/names/{each}", addresses, each, socket.AF_UNSPEC)
# The laptop's address, where there is one, is whatever its engine says.
row("glibc/names/host.docker.internal", lambda: addresses("host.docker.internal", socket.AF_UNSPEC) and "an address")
row("glibc/names/peer/ipv6", addresses, "peer", socket.AF_INET6)
row("glibc/names/at-once", at_once, ["peer", "db-0.db", "alias"])
row("glibc/names/own-host-name", lambda: addresses(socket.gethostname(), socket.AF_UNSPEC))
row("glibc/names/fully-qualified", socket.getfqdn)
row("glibc/names/reverse", lambda: socket.gethostbyaddr(socket.gethostbyname("peer"))[0])
row("glibc/identity/user", lambda: f"{os.getuid()}:{os.getgid()} {sorted(os.getgroups())}")
row("glibc/identity/home", lambda: os.environ.get("HOME"))
row("glibc/identity/path", lambda: os.environ.get("PATH"))
row("glibc/identity/working-directory", os.getcwd)
row("glibc/icmp/echo", ping)
row("glibc/api/own-pod", own_pod)
row("glibc/api/version", lambda: "an object" if "gitVersion" in api("/version") else "something else")
