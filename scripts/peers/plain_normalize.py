"""What anybody writes who needs it now: json and Decimal over lines; nothing is checked."""

import json
import sys
from decimal import Decimal

for line in sys.stdin.buffer:
    message = json.loads(line)
    for row in message["data"]:
        trade = {
            "type": "trade",
            "exchange": "okx",
            "symbol": row["instId"],
            "trade_id": int(row["tradeId"]),
            "count": 1,
            "side": row["side"],
            "price": str(Decimal(row["px"])),
            "size": str(Decimal(row["sz"])),
            "timestamp": int(row["ts"]),
            "received": message.get("received"),
            "source": int(row["source"]),
            "origin": message["arg"]["channel"],
        }
        print(json.dumps(trade, separators=(",", ":")))
