"""A camera that speaks RTSP: H.264 in RTP, interleaved in the TCP connection, behind a password."""

import base64
import socket
import threading
import time
from fractions import Fraction
from typing import Any

import av

from tests.deploy.video.squares import moving, picture

SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track\r\n"
)
RATE = 30


class RtspCamera:
    """Serves one client at a time until it is closed; ``authorisation`` is what the last one sent."""

    def __init__(self, user: str, password: str) -> None:
        self._wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._open = True
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> "RtspCamera":
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._server.close()

    def _serve(self) -> None:
        while self._open:
            try:
                client, _ = self._server.accept()
            except OSError:  # closed
                return
            with client:
                try:
                    self._talk(client)
                except OSError:  # it has hung up
                    continue

    def _talk(self, client: socket.socket) -> None:
        requests = client.makefile("r", encoding="latin-1", newline="\r\n")
        while line := requests.readline().strip():
            method = line.partition(" ")[0]
            headers: dict[str, str] = {}
            while field := requests.readline().strip():
                key, _, value = field.partition(": ")
                headers[key.lower()] = value
            answer, body = "", ""
            if method != "OPTIONS" and headers.get("authorization") != self._wanted:
                status, answer = "401 Unauthorized", 'WWW-Authenticate: Basic realm="camera"\r\n'
            else:
                status = "200 OK"
            if status == "200 OK" and method == "DESCRIBE":
                body = SDP
                answer = f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n"
            elif method == "SETUP":
                answer = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            elif method == "OPTIONS":
                answer = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            said = f"RTSP/1.0 {status}\r\nCSeq: {headers['cseq']}\r\nSession: 1\r\n{answer}\r\n{body}"
            client.sendall(said.encode("latin-1"))
            if status == "200 OK" and method == "PLAY":
                self._play(client)

    def _play(self, client: socket.socket) -> None:
        """Send what FFmpeg's RTP muxer makes, which comes here by UDP."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as packets:
            packets.bind(("127.0.0.1", 0))
            packets.settimeout(0)
            url = f"rtp://127.0.0.1:{packets.getsockname()[1]}?pkt_size=1200"
            file: Any = av.open(url, "w", format="rtp")
            options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "repeat-headers=1:keyint=10"}
            stream = file.add_stream("libx264", rate=RATE, options=options)
            stream.width, stream.height, stream.pix_fmt = 192, 144, "yuv420p"
            number, begin = 0, time.monotonic()
            while self._open:
                frame = av.VideoFrame.from_ndarray(picture(moving(number % 30), (192, 144), 24), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, RATE)
                file.mux(stream.encode(frame))
                number += 1
                time.sleep(max(0.0, begin + number / RATE - time.monotonic()))
                try:
                    while packet := packets.recv(2000):
                        client.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)
                except BlockingIOError:
                    continue
