-- up
-- What KeyValueStore keeps. A whole number lies in a column of its own, so that it is counted up in place.
CREATE TABLE holdfast_key_values (
    tenant_id text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    -- A letter for the form (b: bytes, j: JSON) and the value; NULL where it is a number.
    value bytea,
    number bigint,
    version bigint NOT NULL,
    expires_at timestamptz,
    PRIMARY KEY (tenant_id, namespace, key),
    CHECK ((value IS NULL) <> (number IS NULL))
) WITH (fillfactor = 80);

CREATE INDEX holdfast_key_values_expiry ON holdfast_key_values (tenant_id, namespace, expires_at)
WHERE expires_at IS NOT NULL;

-- Who holds a lease, and the last fencing token: the row stays, so that the tokens of a name only ever grow.
CREATE TABLE holdfast_leases (
    tenant_id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    holder text COLLATE "C" NOT NULL,
    fence bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, name)
) WITH (fillfactor = 50);

-- down
DROP TABLE holdfast_leases;
DROP TABLE holdfast_key_values;
