-- The columns of a table are the keys of its lines, same names and order (okx-lines.5); what follows them is ours.
-- Prices and sizes are numeric and keep every digit; times are timestamptz, exact to the millisecond of the line.
-- Names compare byte by byte (collation "C") whatever the database's own collation is: faster, and the same everywhere.

-- One row per symbol. Who writes anything of a symbol locks its row first, in the order of (exchange, symbol, epoch):
-- two writers then never see each other half done, and never wait for each other in a circle.
CREATE TABLE symbols (
    exchange text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    epoch smallint NOT NULL DEFAULT 0,
    first_seen timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (exchange, symbol, epoch)
);

-- The tape: every fill once. The ledger decides what is new; the key is its safety net.
CREATE TABLE raw_trades (
    exchange text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    trade_id bigint NOT NULL,
    count bigint NOT NULL,
    side text COLLATE "C" NOT NULL,
    price numeric NOT NULL,
    size numeric NOT NULL,
    timestamp timestamptz NOT NULL,
    received timestamptz,
    source smallint,
    origin text COLLATE "C" NOT NULL,
    epoch smallint NOT NULL DEFAULT 0,
    PRIMARY KEY (exchange, symbol, epoch, trade_id, timestamp)
) PARTITION BY RANGE (timestamp);

-- Trades that the exchange merged from several fills: no part of the tape.
CREATE TABLE merged_trades (
    exchange text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    trade_id bigint NOT NULL,
    count bigint NOT NULL,
    side text COLLATE "C" NOT NULL,
    price numeric NOT NULL,
    size numeric NOT NULL,
    timestamp timestamptz NOT NULL,
    received timestamptz,
    source smallint,
    origin text COLLATE "C" NOT NULL,
    epoch smallint NOT NULL DEFAULT 0,
    PRIMARY KEY (exchange, symbol, epoch, trade_id, timestamp)
) PARTITION BY RANGE (timestamp);

-- Candles; `timestamp` is the end of the bar. `written` is when this revision was committed, or a moment before.
CREATE TABLE market_data (
    exchange text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    timeframe text COLLATE "C" NOT NULL,
    start timestamptz NOT NULL,
    timestamp timestamptz NOT NULL,
    open numeric NOT NULL,
    high numeric NOT NULL,
    low numeric NOT NULL,
    close numeric NOT NULL,
    volume numeric NOT NULL,
    base_volume numeric,
    quote_volume numeric,
    buy_volume numeric,
    trade_count bigint,
    first_trade_id bigint,
    last_trade_id bigint,
    closed boolean NOT NULL,
    complete boolean NOT NULL,
    revision integer NOT NULL,
    origin text COLLATE "C" NOT NULL,
    written timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (exchange, symbol, origin, timeframe, timestamp)
) PARTITION BY RANGE (timestamp);

-- Levels are {{price,size},...}, best first: bids[1][1] is the best bid.
CREATE TABLE order_books (
    exchange text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    timestamp timestamptz NOT NULL,
    received timestamptz,
    seq_id bigint,
    bids numeric[] NOT NULL,
    asks numeric[] NOT NULL,
    origin text COLLATE "C" NOT NULL
) PARTITION BY RANGE (timestamp);

-- A snapshot without a sequence number (old recordings) is known by its content.
CREATE UNIQUE INDEX order_books_key ON order_books (
    exchange, symbol, origin, timestamp,
    coalesce(seq_id, hash_array_extended(bids, hash_array_extended(asks, 0)))
);

CREATE TABLE tickers (
    exchange text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    timestamp timestamptz NOT NULL,
    received timestamptz,
    last numeric,
    last_size numeric,
    bid numeric,
    bid_size numeric,
    ask numeric,
    ask_size numeric,
    open_24h numeric,
    high_24h numeric,
    low_24h numeric,
    volume_24h numeric,
    base_volume_24h numeric,
    quote_volume_24h numeric,
    open_utc0 numeric,
    open_utc8 numeric,
    PRIMARY KEY (exchange, symbol, timestamp)
) PARTITION BY RANGE (timestamp);

-- What an instrument was from valid_from until valid_to (null: still is). A new row only when something changed.
CREATE TABLE instruments (
    exchange text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    base text COLLATE "C",
    quote text COLLATE "C",
    settle text COLLATE "C",
    contract_type text COLLATE "C",
    contract_value numeric,
    contract_multiplier numeric,
    contract_currency text COLLATE "C",
    tick_size numeric,
    lot_size numeric,
    min_size numeric,
    listed timestamptz,
    expires timestamptz,
    received timestamptz,
    valid_from timestamptz NOT NULL,
    valid_to timestamptz,
    PRIMARY KEY (exchange, symbol, valid_from),
    CHECK (valid_to > valid_from)
);

-- Which ids of a symbol we have (covered), and which the exchange itself does not have (absent), by the UTC day of the
-- trade's own time. It changes in the transaction of the rows. `first_*` and `last_*` bound the covered ids and their
-- times; `archived` is set when the rows of the day were dropped by retention: covered then means "was here".
CREATE TABLE trade_ledger (
    exchange text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    epoch smallint NOT NULL DEFAULT 0,
    day date NOT NULL,
    covered int8multirange NOT NULL DEFAULT '{}',
    absent int8multirange NOT NULL DEFAULT '{}',
    first_id bigint,
    last_id bigint,
    first_time timestamptz,
    last_time timestamptz,
    archived boolean NOT NULL DEFAULT false,
    PRIMARY KEY (exchange, symbol, epoch, day)
) WITH (fillfactor = 50);

-- Lines that could not be stored, each with its reason; `stored` is the row that it contradicts, if it does.
CREATE TABLE quarantine (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    type text NOT NULL,
    exchange text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    line text NOT NULL,
    stored text
);
CREATE UNIQUE INDEX quarantine_key ON quarantine (md5(line), md5(reason));

-- The tape, with the keys of its lines.
CREATE VIEW trades AS
SELECT exchange, symbol, trade_id, count, side, price, size, timestamp, received, source, origin
FROM raw_trades;

-- One bar for each end: over, and of the newest revision; ours where there is one that is complete or no other.
CREATE VIEW candles AS
SELECT DISTINCT ON (exchange, symbol, timeframe, timestamp)
    exchange, symbol, timeframe, start, timestamp, open, high, low, close, volume, base_volume, quote_volume,
    buy_volume, trade_count, first_trade_id, last_trade_id, closed, complete, revision, origin
FROM market_data
WHERE closed
ORDER BY exchange, symbol, timeframe, timestamp, complete DESC, (origin = 'trades') DESC, origin;
