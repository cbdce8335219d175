-- up
-- As on PostgreSQL. Payload, result and metadata are JSON text.
CREATE TABLE holdfast_tasks (
    tenant_id TEXT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    key TEXT,
    parent_id TEXT,
    owner TEXT NOT NULL,
    shared INTEGER NOT NULL,
    status TEXT NOT NULL,
    priority INTEGER NOT NULL,
    level INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    token INTEGER NOT NULL,
    lease_micros INTEGER,
    wake_at INTEGER,
    payload TEXT,
    result TEXT,
    error TEXT,
    metadata TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    finished_at INTEGER,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, parent_id) REFERENCES holdfast_tasks (tenant_id, id)
);

CREATE INDEX holdfast_tasks_ready ON holdfast_tasks (tenant_id, kind, owner, priority DESC, created_at, id)
    WHERE status = 'pending';
CREATE INDEX holdfast_tasks_wake ON holdfast_tasks (tenant_id, wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX holdfast_tasks_open ON holdfast_tasks (tenant_id, owner) WHERE finished_at IS NULL AND owner <> '';
CREATE INDEX holdfast_tasks_finished ON holdfast_tasks (tenant_id, finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX holdfast_tasks_kind ON holdfast_tasks (tenant_id, kind, created_at DESC, id DESC);
CREATE INDEX holdfast_tasks_newest ON holdfast_tasks (tenant_id, created_at DESC, id DESC);
CREATE INDEX holdfast_tasks_parent ON holdfast_tasks (tenant_id, parent_id) WHERE parent_id IS NOT NULL;

-- down
DROP TABLE holdfast_tasks;
