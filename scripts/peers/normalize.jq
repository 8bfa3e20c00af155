# The renaming of `okx normalize` in jq; numbers stay text where they are prices.
.received as $received | .arg.channel as $origin | .data[] | {type: "trade", exchange: "okx", symbol: .instId,
  trade_id: (.tradeId | tonumber), count: 1, side, price: .px, size: .sz, timestamp: (.ts | tonumber),
  received: $received, source: (.source | tonumber), origin: $origin}
