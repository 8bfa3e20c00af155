-- The most that time was seen to step back from one fill of a symbol to one with a higher id, in milliseconds. What proves
-- a bar complete must reach so much further on both sides of it.
ALTER TABLE symbols ADD COLUMN step bigint NOT NULL DEFAULT 0;
