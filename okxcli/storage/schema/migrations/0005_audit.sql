-- What a day of the ledger holds, for an audit of its rows: how many fills they are, and the sum of their checksums
-- (storage/checksum.py), both kept in the transaction of the rows; null: not known yet, the next audit sets them. When
-- that was last, and what it found (null: what is stored is what was stored).
ALTER TABLE trade_ledger
    ADD COLUMN fills bigint,
    ADD COLUMN checksum numeric,
    ADD COLUMN audited timestamptz,
    ADD COLUMN found text COLLATE "C";

-- Ids that were given up: neither here nor to be had, and nobody is to miss them.
ALTER TABLE doubts ADD COLUMN forgotten boolean NOT NULL DEFAULT false;
