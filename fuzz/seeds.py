#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets: the first bytes that real programs send.

    fuzz/seeds.py PATH/TO/moorline-load

ClientHellos come from openssl s_client, curl, chromium and rustls (moorline-load); PROXY headers from
HAProxy and curl, or are written by hand if no program sends them. Heads of requests
come from curl and chromium. Other heads and chunked bodies are written by hand; the names of invalid ones
begin with `bad-`. Programs that are missing are skipped,
and so are their seeds. Needs Debian's openssl, curl, chromium and haproxy.
"""

import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

SEEDS = pathlib.Path(__file__).parent / "seeds"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def first_bytes(command, complete):
    """The first bytes that a program sends to a port, up to the end that `complete` finds.

    `{port}` in its arguments is replaced by the port.
    """
    if not shutil.which(command[0]):
        print("missing:", command[0])
        return None
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.settimeout(20)
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        program = subprocess.Popen([word.replace("{port}", str(port)) for word in command], **quiet)
        try:
            client, _ = server.accept()
            client.settimeout(20)
            data = b""
            while not (end := complete(data)):
                more = client.recv(65536)
                if not more:
                    raise SystemExit(f"{command[0]} sent only {data!r}")
                data += more
            client.close()
            return data[:end]
        finally:
            program.kill()
            program.wait()


def record(data):
    """The end of the first TLS record; 0 if it is incomplete."""
    if len(data) < 5:
        return 0
    end = 5 + struct.unpack(">H", data[3:5])[0]
    return end if len(data) >= end else 0


def header(data):
    """The end of the PROXY header and up to 16 bytes after it; 0 if it is incomplete."""
    if data.startswith(SIGNATURE):
        if len(data) < 16:
            return 0
        end = 16 + struct.unpack(">H", data[14:16])[0]
    else:
        end = data.find(b"\n") + 1
    return min(end + 16, len(data)) if end and len(data) >= end else 0


def keep(target, name, data):
    if data:
        (SEEDS / target / name).write_bytes(data)
        print(f"{target}/{name}: {len(data)} bytes")


def fragmented(hello, pieces):
    """A ClientHello in records of `pieces` bytes each."""
    body, head, out = hello[5:], hello[:3], b""
    for at in range(0, len(body), pieces):
        piece = body[at : at + pieces]
        out += head + struct.pack(">H", len(piece)) + piece
    return out


def client_hellos(load):
    def hello(name, *command):
        data = first_bytes(command, record)
        keep("client_hello", name, data)
        return data

    s_client = ["openssl", "s_client", "-connect", "127.0.0.1:{port}"]
    plain = hello("openssl", *s_client, "-servername", "db.example.com", "-alpn", "h2,http/1.1")
    hello("openssl-tls12", *s_client, "-servername", "chat.example.com", "-tls1_2")
    hello("openssl-no-sni", *s_client, "-noservername")
    hello("openssl-postgres", *s_client, "-servername", "db", "-alpn", "postgresql")
    resolve = ["--resolve", "www.example.com:{port}:127.0.0.1"]
    hello("curl", "curl", "-sk", *resolve, "https://www.example.com:{port}/")
    chromium = ["chromium", "--headless", "--no-sandbox", "--disable-gpu"]
    with tempfile.TemporaryDirectory() as home:
        own = ["--no-first-run", f"--user-data-dir={home}"]
        rules = ["--host-resolver-rules=MAP www.example.com 127.0.0.1"]
        hello("chromium", *chromium, *own, *rules, "https://www.example.com:{port}/")
    run = ["run", "https://localhost:{port}/", "--client", "http", "--clients", "1", "--hold", "5s"]
    hello("rustls", load, *run, "--insecure", "--quiet")
    keep("client_hello", "fragments", fragmented(plain, 50))
    keep("client_hello", "bytewise", fragmented(plain[:5] + plain[5:], 1)[:600])
    keep("client_hello", "trailing", plain + b"\x14\x03\x03\x00\x01\x01")
    keep("client_hello", "half", plain[: len(plain) // 2])
    keep("client_hello", "ssh", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
    keep("client_hello", "http", b"GET / HTTP/1.1\r\nHost: chat.example.com\r\n\r\n")
    # A ClientHello of SSL 2, and an alert instead of a handshake.
    keep("client_hello", "ssl2", bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0") + bytes(16))
    keep("client_hello", "alert", bytes.fromhex("15030100020228"))


def haproxy(words):
    """The header that HAProxy sends to a server with these options, for a client that sends `hello`."""
    with tempfile.TemporaryDirectory() as home, socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            listen = taken.getsockname()
        file = pathlib.Path(home) / "haproxy.cfg"
        file.write_text(f"""
defaults
    mode tcp
    timeout connect 5s
    timeout client 5s
    timeout server 5s
listen in
    bind 127.0.0.1:{listen[1]}
    unique-id-format %rt
    server out 127.0.0.1:{server.getsockname()[1]} {words}
""")
        program = subprocess.Popen(["haproxy", "-db", "-f", str(file)])
        try:
            while True:
                try:
                    client = socket.create_connection(listen)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            client.sendall(b"hello")
            server.settimeout(20)
            accepted, _ = server.accept()
            data = b""
            while not (end := header(data)):
                data += accepted.recv(65536)
            return data[:end]
        finally:
            program.kill()
            program.wait()


def proxy_headers():
    address = "http://127.0.0.1:{port}/"
    keep("proxy_header", "curl", first_bytes(["curl", "-s", "--haproxy-protocol", address], header))
    if shutil.which("haproxy"):
        keep("proxy_header", "haproxy-v1", haproxy("send-proxy"))
        keep("proxy_header", "haproxy-v2", haproxy("send-proxy-v2"))
        keep("proxy_header", "haproxy-tlvs", haproxy("send-proxy-v2 proxy-v2-options unique-id,crc32c,authority"))

    def v2(command, family, rest):
        return SIGNATURE + bytes([command, family]) + struct.pack(">H", len(rest)) + rest

    def tlv(kind, value):
        return bytes([kind]) + struct.pack(">H", len(value)) + value

    ends = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + struct.pack(">HH", 4711, 443)
    ends6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") * 2 + struct.pack(">HH", 4711, 443)
    mapped = socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.7") * 2 + struct.pack(">HH", 4711, 443)
    tls = bytes([7, 0, 0, 0, 0]) + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"client")
    more = tlv(1, b"h2") + tlv(2, b"db.example.com") + tlv(5, b"id") + tlv(0x20, tls)
    for name, data in {
        "v1-tcp6": b"PROXY TCP6 2001:db8::7 ::1 65535 0\r\nGET /",
        "v1-unknown": b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n",
        "v1-too-long": b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n",
        "v1-port": b"PROXY TCP4 192.0.2.7 198.51.100.1 04711 443\r\n",
        "v2-local": v2(0x20, 0, b"") + b"PING\r\n",
        "v2-tlvs": v2(0x21, 0x11, ends + more) + b"GET /",
        "v2-tcp6": v2(0x21, 0x21, ends6 + more),
        "v2-mapped": v2(0x21, 0x21, mapped),
        "v2-unix": v2(0x21, 0x31, b"/run/a".ljust(108, b"\0") * 2),
        "v2-overrun": v2(0x21, 0x11, ends + b"\x05\x01\x00id"),
        "v2-checksum": v2(0x21, 0x11, ends + tlv(3, b"\0\0\0\0")),
        "v2-short": v2(0x21, 0x11, ends[:7]),
        "v2-long": SIGNATURE + bytes([0x21, 0x11, 0xff, 0xff]) + ends,
        "v2-datagram": v2(0x21, 0x12, ends),
        "absent": b"GET / HTTP/1.1\r\n\r\n",
    }.items():
        keep("proxy_header", name, data)


def chunked(data):
    """The body of a request, if its last chunk has arrived."""
    _, end, body = data.partition(b"\r\n\r\n")
    return len(data) if end and body.endswith(b"\r\n0\r\n\r\n") else 0


def bodies():
    upload = ["curl", "-s", "-H", "Expect:", "-H", "Transfer-Encoding: chunked", "--data-binary", f"@{__file__}"]
    request = first_bytes([*upload, "http://127.0.0.1:{port}/"], chunked)
    keep("body", "curl", request and request.partition(b"\r\n\r\n")[2])
    for name, data in {
        "empty": b"0\r\n\r\n",
        "next": b"3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "zeros": b"0000000000000003\r\nabc\r\n000\r\n\r\n",
        "extensions": b'3;a=1 ; b="x\\";y"\r\nabc\r\nA\t;\xe9\r\n0123456789\r\n0;end\r\n\r\n',
        "grpc": b"5\r\n\0\0\0\0\0\r\n0\r\ngrpc-status: 0\r\nGrpc-Message:\r\n\r\n",
        "forbidden": b"0\r\nContent-Length: 5\r\nETag: \"x\"\r\nX_Forwarded_For: 1\r\n\r\n",
        "all-forbidden": b"1\r\nx\r\n0\r\nHost: a\r\nCookie: b\r\n\r\n",
        "framing-in-data": b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
        "bad-sign": b"+3\r\nabc\r\n0\r\n\r\n",
        "bad-prefix": b"0x3\r\nabc\r\n0\r\n\r\n",
        "bad-overflow": b"10000000000000000\r\nabc\r\n0\r\n\r\n",
        "bad-large": b"20000000000001\r\nabc",
        "padding": b"3 \r\nabc\r\n0\r\n\r\n",
        "bad-extension-lf": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
        "bad-extension-cr": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
        "bad-bare-lf": b"3\nabc\n0\n\n",
        "bad-chunk-end": b"3\r\nabcd\r\n0\r\n\r\n",
        "bad-trailer-fold": b"0\r\na: b\r\n c\r\n\r\n",
        "bad-trailer-space": b"0\r\na : b\r\n\r\n",
        "bad-trailer-lf": b"0\r\na: b\n\r\n",
        "bad-incomplete": b"5\r\nabc",
    }.items():
        keep("body", name, data)


def head(data):
    """The end of a head; 0 if it is incomplete."""
    return data.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else 0


def heads():
    polling = "http://127.0.0.1:{port}/socket.io/?EIO=4&transport=polling"
    keep("head", "request-curl", first_bytes(["curl", "-s", polling], head))
    upload = ["curl", "-s", "-F", f"file=@{__file__}", "-b", "a=1; b=2", "-H", "Expect: 100-continue"]
    keep("head", "request-curl-upload", first_bytes([*upload, polling], head))
    upgrade = ["curl", "-s", "--http2", "-x", "", polling]
    keep("head", "request-curl-h2c", first_bytes(upgrade, head))
    with tempfile.TemporaryDirectory() as home:
        chromium = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        keep("head", "request-chromium", first_bytes([*chromium, f"--user-data-dir={home}", polling], head))
    for name, data in {
        "request-websocket": b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        "request-absolute": b"GET http://a.test:80?x HTTP/1.1\r\nHost: b\r\n\r\n",
        "request-chunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
        "request-lengths": b"POST / HTTP/1.1\r\nContent-Length: 3\r\nHost: a\r\ncontent-length:03\r\n\r\nabcGET",
        "request-old": b"\r\nGET /a?b HTTP/1.0\r\nConnection: keep-alive\r\nx:\t\xff \r\n\r\n",
        "response-node": b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Length: 2\r\n"
        b"cache-control: no-store\r\nDate: Mon, 30 Nov 2026 10:00:00 GMT\r\nConnection: keep-alive\r\n"
        b"Keep-Alive: timeout=5\r\n\r\nok",
        "response-switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\0",
        "response-interim": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        "response-until-close": b"HTTP/1.0 200\r\nServer: x\r\n\r\nabc",
        "response-both": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "bad-both": b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "bad-coding": b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "bad-codings": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked,\r\n\r\n",
        "bad-length": b"POST / HTTP/1.1\r\nContent-Length: 3, 3\r\n\r\n",
        "bad-fold": b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        "bad-bare-lf": b"GET / HTTP/1.1\nHost: a\n\n",
        "bad-space": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "bad-http09": b"GET /\r\n",
        "bad-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "bad-proxy": SIGNATURE + bytes([0x20, 0, 0, 0]),
        "bad-tls": bytes.fromhex("1603010200"),
        "bad-status": b"HTTP/1.1 20 OK\r\n\r\n",
    }.items():
        keep("head", name, data)


def head_edits():
    """Edits and a head, as fuzz/checks/head_edits.rs describes them."""
    kinds = ["append", "append_with", "append_named", "set", "set_fmt", "set_named", "remove", "remove_named", "retain"]

    def edits(*edits):
        parts = [bytes([kinds.index(kind) + 1, len(name)]) + name + bytes([len(value)]) + value for kind, name, value in edits]
        return b"".join(parts) + b"\0"

    request = (
        b"POST /socket.io/?EIO=4&sid=a HTTP/1.1\r\nHost: a.test\r\nCookie: a=1\r\nx-Own:  b \r\nCOOKIE: c=2\r\n"
        b"Connection: keep-alive\r\nContent-Length: 2\r\n\r\n"
    )
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n"
        b"Date: Mon, 30 Nov 2026 10:00:00 GMT\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\n\r\n"
    )
    forwarded = (("set", b"X-Forwarded-For", b"192.0.2.7"), ("set_fmt", b"x-request-id", b"42"), ("append", b"Forwarded", b"for=x"))
    for name, data in {
        "request": edits() + request,
        "request-forwarded": edits(*forwarded) + request,
        "request-cookie": edits(("set_named", b"cookie", b"d=3"), ("append_named", b"X-Own", b" c\t")) + request,
        "request-remove": edits(("remove", b"Host", b""), ("remove_named", b"x-own", b""), ("append", b"Host", b"b")) + request,
        "request-retain": edits(("retain", b"", b"a"), ("append_with", b"Cookie", b"e=4")) + request,
        "request-empty": edits(("retain", b"", b"")) + request,
        "request-chunked": edits(*forwarded) + chunked,
        "request-injection": edits(("append_named", b"a\r\nb", b"c"), ("set", b"Host", b"a\r\n\r\n"), ("set_fmt", b"Cookie", b"\0")) + request,
        "response": edits() + response,
        "response-cookie": edits(("append", b"Set-Cookie", b"moorline=x; Path=/"), ("remove", b"Date", b"")) + response,
        "response-retain": edits(("retain", b"", b"a="), ("set", b"Vary", b"Origin")) + response,
        "response-injection": edits(("append_with", b"Location", b"/\nSet-Cookie: x"), ("append_named", b"x:y", b"z")) + response,
        "bad-head": edits(*forwarded) + request[:40],
        "bad-edit": b"\x03\xffHost",
    }.items():
        keep("head_edits", name, data)


if __name__ == "__main__":
    heads()
    head_edits()
    bodies()
    client_hellos(sys.argv[1] if len(sys.argv) > 1 else "moorline-load")
    proxy_headers()
