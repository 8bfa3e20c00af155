-- Ids that are not settled. Not `noted`: known to exist or to lie in a hole, and not here; `answers` of the exchange
-- lacked them, between two moments. `noted`: in the ledger as absent at the exchange, which is asked once more a day
-- later. What the ledger has meanwhile counts more than a row here.
CREATE TABLE doubts (
    exchange text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    epoch smallint NOT NULL DEFAULT 0,
    first_id bigint NOT NULL,
    last_id bigint NOT NULL,
    answers integer NOT NULL DEFAULT 0,
    first_asked timestamptz,
    last_asked timestamptz,
    noted boolean NOT NULL DEFAULT false,
    PRIMARY KEY (exchange, symbol, epoch, first_id),
    CHECK (first_id <= last_id)
);

-- Rows come almost in the order of their times: a few bytes for each megabyte find the rows of a minute.
CREATE INDEX raw_trades_time ON raw_trades USING brin (timestamp) WITH (pages_per_range = 32, autosummarize = on);
