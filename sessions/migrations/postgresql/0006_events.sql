-- up
-- Events in the order of their time. The stage of their retention comes first, so that what is kept for good never stands
-- in a partition that goes, then the time: raw events by day, rolled-up and kept ones by month, the coarsest by year.
CREATE TABLE holdfast_events (
    at timestamptz NOT NULL,
    -- The client's own: it tells events of one moment apart, in the order of their making, and a retry from a first try.
    id bigint NOT NULL,
    value double precision,
    -- The transaction that wrote it: who follows events asks for those below the oldest that still runs.
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    -- Of how many events a rolled-up one is made, how many of them had a value (their sum is value), and its bounds.
    samples bigint,
    valued bigint,
    low double precision,
    high double precision,
    chain_seq bigint,
    tenant_id text COLLATE "C" NOT NULL,
    retention text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    service text COLLATE "C",
    name text COLLATE "C",
    correlation text COLLATE "C",
    level text COLLATE "C",
    message text,
    tags jsonb,
    chain text COLLATE "C",
    hash bytea,
    PRIMARY KEY (tenant_id, at, id, retention)
) PARTITION BY LIST (retention);

CREATE TABLE holdfast_events_raw PARTITION OF holdfast_events FOR VALUES IN ('raw') PARTITION BY RANGE (at);
CREATE TABLE holdfast_events_aggregated PARTITION OF holdfast_events FOR VALUES IN ('aggregated') PARTITION BY RANGE (at);
CREATE TABLE holdfast_events_downsampled PARTITION OF holdfast_events FOR VALUES IN ('downsampled') PARTITION BY RANGE (at);
CREATE TABLE holdfast_events_kept PARTITION OF holdfast_events FOR VALUES IN ('kept') PARTITION BY RANGE (at);

CREATE INDEX holdfast_events_written ON holdfast_events (tenant_id, xid, id);
CREATE INDEX holdfast_events_names ON holdfast_events (tenant_id, name, at, id);
CREATE INDEX holdfast_events_correlations ON holdfast_events (tenant_id, correlation, at, id)
    WHERE correlation IS NOT NULL;
CREATE INDEX holdfast_events_chain ON holdfast_events_kept (tenant_id, chain, chain_seq) WHERE chain IS NOT NULL;

-- The newest entry of each chain of audit events; its row is locked by each append, so the order is that of the commits.
CREATE TABLE holdfast_event_chains (
    seq bigint NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    chain text COLLATE "C" NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (tenant_id, chain)
);

-- Makes the partition that holds a moment, and tells whether it was missing. It is made as a table and attached then: the
-- lock lets readers and writers of the others go on. It is a table's, because waiting for one shows what came meanwhile.
CREATE FUNCTION holdfast_event_partition(stage text, moment timestamptz) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    unit text := CASE stage WHEN 'raw' THEN 'day' WHEN 'downsampled' THEN 'year' ELSE 'month' END;
    begins timestamp := date_trunc(unit, moment AT TIME ZONE 'UTC');
    ends timestamp := begins + CAST('1 ' || unit AS interval);
    leaf text := 'holdfast_events_' || stage || '_'
        || to_char(begins, CASE unit WHEN 'day' THEN 'YYYYMMDD' WHEN 'month' THEN 'YYYYMM' ELSE 'YYYY' END);
BEGIN
    IF to_regclass(leaf) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('LOCK TABLE ONLY %I IN SHARE UPDATE EXCLUSIVE MODE', 'holdfast_events_' || stage);
    IF to_regclass(leaf) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE holdfast_events INCLUDING DEFAULTS)', leaf);
    EXECUTE format(
        'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', 'holdfast_events_' || stage, leaf,
        to_char(begins, 'YYYY-MM-DD') || ' 00:00:00+00', to_char(ends, 'YYYY-MM-DD') || ' 00:00:00+00'
    );
    RETURN true;
END
$$;

-- down
DROP FUNCTION holdfast_event_partition(text, timestamptz);
DROP TABLE holdfast_event_chains;
DROP TABLE holdfast_events;
