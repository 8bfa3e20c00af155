"""What everybody writes: subscribe, and write each push as a line, until there have been so many.

Arguments: address, symbols with commas, how many; a fourth one: write each line out at once.
"""

import json
import sys

import websocket

address, symbols, count = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])
at_once = len(sys.argv) > 4
connection = websocket.create_connection(address, skip_utf8_validation=True)  # which it does in Python
arguments = [{"channel": "trades-all", "instId": symbol} for symbol in symbols]
connection.send(json.dumps({"op": "subscribe", "args": arguments}))
for _ in symbols:
    connection.recv_data()
out = sys.stdout.buffer
for _ in range(count):
    _, data = connection.recv_data()
    out.write(data + b"\n")
    if at_once:
        out.flush()
out.flush()
