-- States of symbols beside their trades (core/states.py), a table a type, with the keys of its lines.
-- Each is spelled out, though they begin alike: what a migration has made is to be read in it and nowhere else.

CREATE TABLE funding_rates (
    exchange text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    timestamp timestamptz NOT NULL,
    received timestamptz,
    rate numeric,
    funding_time timestamptz,
    next_rate numeric,
    next_funding_time timestamptz,
    min_rate numeric,
    max_rate numeric,
    settled_rate numeric,
    premium numeric,
    interest_rate numeric,
    method text COLLATE "C",
    origin text COLLATE "C" NOT NULL,
    PRIMARY KEY (exchange, symbol, timestamp, origin)
) PARTITION BY RANGE (timestamp);

CREATE TABLE mark_prices (
    exchange text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    timestamp timestamptz NOT NULL,
    received timestamptz,
    price numeric NOT NULL,
    PRIMARY KEY (exchange, symbol, timestamp)
) PARTITION BY RANGE (timestamp);

CREATE TABLE index_prices (
    exchange text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    timestamp timestamptz NOT NULL,
    received timestamptz,
    price numeric NOT NULL,
    open_24h numeric,
    high_24h numeric,
    low_24h numeric,
    open_utc0 numeric,
    open_utc8 numeric,
    PRIMARY KEY (exchange, symbol, timestamp)
) PARTITION BY RANGE (timestamp);

CREATE TABLE open_interest (
    exchange text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    timestamp timestamptz NOT NULL,
    received timestamptz,
    open_interest numeric NOT NULL,
    base_open_interest numeric,
    usd_open_interest numeric,
    PRIMARY KEY (exchange, symbol, timestamp)
) PARTITION BY RANGE (timestamp);

CREATE TABLE price_limits (
    exchange text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    timestamp timestamptz NOT NULL,
    received timestamptz,
    buy_limit numeric,
    sell_limit numeric,
    enabled boolean,
    PRIMARY KEY (exchange, symbol, timestamp)
) PARTITION BY RANGE (timestamp);

CREATE TABLE liquidations (
    exchange text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    timestamp timestamptz NOT NULL,
    received timestamptz,
    side text COLLATE "C" NOT NULL,
    position text COLLATE "C",
    size numeric NOT NULL,
    base_size numeric,
    quote_size numeric,
    bankruptcy_price numeric NOT NULL,
    loss numeric,
    currency text COLLATE "C"
) PARTITION BY RANGE (timestamp);
CREATE UNIQUE INDEX liquidations_key ON liquidations (
    exchange, symbol, timestamp, side, coalesce(position, ''), bankruptcy_price, size
);
