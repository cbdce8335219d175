-- What is to be delivered elsewhere, put in the transaction that decided it. The row of a key is locked by who puts, so
-- numbers are in the order of commits; `done` is the number of the last item that was delivered or given up. A key is due
-- at `due_at`: at once, after a pause where a try failed, or when the relay that took it has been silent for its lease. `fence` begins at the time, so that a row which is made anew
-- never comes to a number that an old relay remembers.
-- up
CREATE TABLE holdfast_outbox_keys (
    tenant_id text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    last bigint NOT NULL,
    done bigint NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    fence bigint NOT NULL DEFAULT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint),
    PRIMARY KEY (tenant_id, topic, key)
) WITH (fillfactor = 70);
CREATE INDEX holdfast_outbox_keys_due ON holdfast_outbox_keys (tenant_id, topic, due_at) WHERE done < last;
CREATE TABLE holdfast_outbox (
    tenant_id text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    number bigint NOT NULL,
    payload bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, topic, key, number)
);
CREATE TABLE holdfast_outbox_dead (
    tenant_id text COLLATE "C" NOT NULL,
    topic text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    number bigint NOT NULL,
    payload bytea NOT NULL,
    created_at timestamptz NOT NULL,
    died_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts integer NOT NULL,
    error text NOT NULL,
    PRIMARY KEY (tenant_id, topic, key, number)
);

-- down
DROP TABLE holdfast_outbox_dead;
DROP TABLE holdfast_outbox;
DROP TABLE holdfast_outbox_keys;
