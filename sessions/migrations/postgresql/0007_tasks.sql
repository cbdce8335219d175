-- up
-- Work that exactly one owner does at a time; a task with a parent is a thought, a step, a part of it.
CREATE TABLE holdfast_tasks (
    tenant_id text COLLATE "C" NOT NULL,
    -- Of a task with a key, made of its kind, owner and key: the primary key is what lets it in once.
    id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    key text COLLATE "C",
    parent_id text COLLATE "C",
    -- Whose it is: who may claim it, who holds it or who held it last; '' is anybody. No API takes '' for an owner.
    owner text COLLATE "C" NOT NULL,
    -- Whether it goes back to anybody when its owner lets go.
    shared boolean NOT NULL,
    status text COLLATE "C" NOT NULL,
    priority integer NOT NULL,
    level integer NOT NULL,
    attempts integer NOT NULL,
    max_attempts integer NOT NULL,
    -- The fence: it grows whenever the task changes hands, and who holds the task must name it.
    token bigint NOT NULL,
    lease_micros bigint,
    -- When a lease ends or a deferred task is due; NULL in every other status.
    wake_at timestamptz,
    -- json, not jsonb: NUL, lone surrogates, numbers and the order of keys come back as they were.
    payload json,
    result json,
    error text,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    finished_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, parent_id) REFERENCES holdfast_tasks (tenant_id, id)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- What may be claimed, in the order of claims: finished tasks are in neither of the first three, however many there are.
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
