-- Ids of a day whose rows retention dropped, and which has others again: the day is open, these are not lost. The ids
-- of a day that is `archived` as a whole are all in `covered`.
ALTER TABLE trade_ledger ADD COLUMN retired int8multirange NOT NULL DEFAULT '{}';

-- Fills may have come for a day after it was archived: it is open again, and covers what its rows say.
DO $$
DECLARE
    one record;
    there int8multirange;
BEGIN
    FOR one IN SELECT exchange, symbol, epoch, day FROM trade_ledger
        WHERE archived AND to_regclass('raw_trades_' || to_char(day, 'YYYYMMDD')) IS NOT NULL
    LOOP
        SELECT range_agg(int8range(trade_id - count + 1, trade_id, '[]')) INTO there FROM raw_trades
        WHERE exchange = one.exchange AND symbol = one.symbol AND epoch = one.epoch
            AND timestamp >= one.day::timestamp AT TIME ZONE 'UTC'
            AND timestamp < (one.day + 1)::timestamp AT TIME ZONE 'UTC';
        UPDATE trade_ledger SET archived = false, retired = covered - there, covered = covered * there
        WHERE there IS NOT NULL AND exchange = one.exchange AND symbol = one.symbol AND epoch = one.epoch
            AND day = one.day;
    END LOOP;
END $$;
