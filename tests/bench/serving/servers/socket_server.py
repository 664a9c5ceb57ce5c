"""The limit: ``socket_server.py PORT FOLDER``; a length, the raw features, and the answer computed where they arrive.

A message is the model's index, the number of rows and the bytes (three little-endian numbers of 32 bits), then the
bytes. A thread a connection, and one that computes at a time: on one core more would be in each other's way.
"""

import socket
import struct
import sys
import threading
from pathlib import Path

import numpy as np
from common import end_with_parent
from models import models

from splitleak.wire.server.malloc import keep_big_buffers

HEAD = struct.Struct("<III")


def receive(connection, buffer):
    view, filled = memoryview(buffer), 0
    while filled < len(buffer):
        count = connection.recv_into(view[filled:])
        if not count:
            return False
        filled += count
    return True


def answer(connection, served, turn):
    head = bytearray(HEAD.size)
    with connection:
        while receive(connection, head):
            index, rows, size = HEAD.unpack(head)
            body = bytearray(size)
            if not receive(connection, body):
                return
            shape, compute = served[index]
            features = np.frombuffer(body, "<f4").reshape(rows, *shape)
            with turn:
                logits = compute(features)
            connection.sendall(logits.tobytes())


if __name__ == "__main__":
    end_with_parent()
    keep_big_buffers()  # as our server does: the limit is to be one
    made, lock = list(models(Path(sys.argv[2])).values()), threading.Lock()
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listening:
        while True:
            accepted, _ = listening.accept()
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=answer, args=(accepted, made, lock), daemon=True).start()
