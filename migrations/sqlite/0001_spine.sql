-- The spine, in SQLite's words: the same tables and CHECKs as in Postgres. Ids are BLOBs of 16 bytes, times INTEGER
-- microseconds of the process's clock, truth INTEGER 0 or 1, JSON TEXT. One process writes, in one transaction at a
-- time, so nothing here needs partitions, shards (there is one, 0) or fill factors.

CREATE TABLE agent_templates (
    id          BLOB    NOT NULL CHECK (length(id) = 16),
    version     INTEGER NOT NULL CHECK (version > 0),
    team_id     BLOB    NOT NULL,
    project_id  BLOB    NOT NULL,
    name        TEXT    NOT NULL,
    spec_json   TEXT    NOT NULL CHECK (json_valid(spec_json)),
    spec_hash   BLOB    NOT NULL CHECK (length(spec_hash) = 32),
    status      TEXT    NOT NULL DEFAULT 'active' CHECK (status IN ('draft', 'provisioning', 'active', 'failed', 'deprecated')),
    paused      INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    created_by  TEXT,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    PRIMARY KEY (id, version),
    UNIQUE (team_id, name, version)
) STRICT;

-- One active version per environment; activating another is one row.
CREATE TABLE template_activations (
    template_id  BLOB    NOT NULL,
    environment  TEXT    NOT NULL CHECK (environment IN ('dev', 'stage', 'prod')),
    version      INTEGER NOT NULL,
    activated_at INTEGER NOT NULL,
    PRIMARY KEY (template_id, environment),
    FOREIGN KEY (template_id, version) REFERENCES agent_templates (id, version)
) STRICT, WITHOUT ROWID;

-- Contexts and compiled policies by content: written once, never changed.
CREATE TABLE blobs (
    hash       BLOB    PRIMARY KEY NOT NULL CHECK (length(hash) = 32),
    bytes      BLOB    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- Immutable but for its flags: how a run ended is in run_outcomes, how far it is in run_counters.
CREATE TABLE runs (
    id               BLOB    PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    team_id          BLOB    NOT NULL,
    project_id       BLOB    NOT NULL,
    root_group       BLOB    NOT NULL,
    root_instance    BLOB,
    spec_json        TEXT    NOT NULL CHECK (json_valid(spec_json)),
    template_id      BLOB    NOT NULL,
    template_version INTEGER NOT NULL,
    template_name    TEXT    NOT NULL,
    max_parallel     INTEGER NOT NULL CHECK (max_parallel > 0),
    priority         INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 9),
    generation       INTEGER NOT NULL DEFAULT 1,
    sealed           INTEGER NOT NULL DEFAULT 1 CHECK (sealed IN (0, 1)),
    paused           INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    cancel_reason    TEXT,
    deadline_at      INTEGER,
    traceparent      TEXT,
    created_at       INTEGER NOT NULL
) STRICT;
CREATE INDEX runs_by_team ON runs (team_id, id);
CREATE INDEX runs_with_deadline ON runs (deadline_at) WHERE deadline_at IS NOT NULL;
CREATE INDEX runs_to_cancel ON runs (id) WHERE cancel_requested = 1;

-- How a run ended: inserted once, never changed (I5). `closed` when none of its instances is live any more.
CREATE TABLE run_outcomes (
    run_id          BLOB    PRIMARY KEY NOT NULL REFERENCES runs (id),
    status          TEXT    NOT NULL CHECK (status IN ('completed', 'failed', 'timeout', 'cancelled')),
    result_instance BLOB,
    error           TEXT    CHECK (json_valid(error)),
    closed          INTEGER NOT NULL CHECK (closed IN (0, 1)),
    finished_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX run_outcomes_open ON run_outcomes (run_id) WHERE closed = 0;

CREATE TABLE run_counters (
    run_id        BLOB    NOT NULL REFERENCES runs (id),
    shard         INTEGER NOT NULL DEFAULT 0,
    total         INTEGER NOT NULL DEFAULT 0 CHECK (total >= 0),
    waiting       INTEGER NOT NULL DEFAULT 0 CHECK (waiting >= 0),
    completed     INTEGER NOT NULL DEFAULT 0 CHECK (completed >= 0),
    failed        INTEGER NOT NULL DEFAULT 0 CHECK (failed >= 0),
    timeout       INTEGER NOT NULL DEFAULT 0 CHECK (timeout >= 0),
    cancelled     INTEGER NOT NULL DEFAULT 0 CHECK (cancelled >= 0),
    steps         INTEGER NOT NULL DEFAULT 0 CHECK (steps >= 0),
    input_tokens  INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0,
    cost_micros   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, shard)
) STRICT, WITHOUT ROWID;

-- Siblings spawned together, and the tree over them. Immutable once sealed, but for failed_leaves and done.
CREATE TABLE groups (
    id               BLOB    PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    run_id           BLOB    NOT NULL REFERENCES runs (id),
    team_id          BLOB    NOT NULL,
    project_id       BLOB    NOT NULL,
    parent_id        BLOB,
    total            INTEGER NOT NULL CHECK (total >= 0),
    chunk            INTEGER NOT NULL CHECK (chunk >= 2),
    reduces          INTEGER NOT NULL CHECK (reduces IN (0, 1)),
    tolerated        INTEGER NOT NULL CHECK (tolerated >= 0),
    context_hash     BLOB,
    reducer_template_id BLOB,
    reducer_template_version INTEGER,
    reducer_template_name TEXT,
    reducer_policy_hash BLOB,
    reducer_task     TEXT,
    failed_leaves    INTEGER NOT NULL DEFAULT 0 CHECK (failed_leaves BETWEEN 0 AND total),
    done             INTEGER NOT NULL DEFAULT 0 CHECK (done IN (0, 1)),
    created_at       INTEGER NOT NULL,
    CHECK (reduces = (reducer_policy_hash IS NOT NULL))
) STRICT;
CREATE INDEX groups_by_run ON groups (run_id);

CREATE TABLE agent_instances (
    id                 BLOB    PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    run_id             BLOB    NOT NULL,
    group_id           BLOB    NOT NULL,
    parent_id          BLOB,
    team_id            BLOB    NOT NULL,
    project_id         BLOB    NOT NULL,
    level              INTEGER NOT NULL DEFAULT 0 CHECK (level >= 0),
    ordinal            INTEGER NOT NULL CHECK (ordinal >= 0),
    generation         INTEGER NOT NULL DEFAULT 1,
    template_id        BLOB    NOT NULL,
    template_version   INTEGER NOT NULL,
    template_name      TEXT    NOT NULL,
    policy_hash        BLOB    NOT NULL,
    context_hash       BLOB,
    core_rev           INTEGER NOT NULL,
    depth              INTEGER NOT NULL DEFAULT 0,
    priority           INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 9),
    name               TEXT,
    role               TEXT,
    task               TEXT    NOT NULL,
    status             TEXT    NOT NULL CHECK (status IN ('queued', 'running', 'waiting', 'completed', 'failed', 'timeout', 'cancelled')),
    state              TEXT    NOT NULL CHECK (state IN ('init', 'planning', 'executing', 'synthesizing', 'completed', 'failed', 'timeout')),
    waiting_for        TEXT    CHECK (waiting_for IN ('children', 'timer')),
    step               INTEGER NOT NULL DEFAULT 0 CHECK (step >= 0),
    epoch              INTEGER NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    worker_incarnation BLOB,
    last_seq           INTEGER NOT NULL DEFAULT 0,
    last_hash          BLOB    NOT NULL DEFAULT (zeroblob(32)),
    wake_seq           INTEGER NOT NULL DEFAULT 0,
    run_after          INTEGER,
    granted_at         INTEGER,
    started_at         INTEGER,
    deaths             INTEGER NOT NULL DEFAULT 0,
    deaths_at_seq      INTEGER NOT NULL DEFAULT 0,
    paused             INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    cancel_requested   INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    input_tokens       INTEGER NOT NULL DEFAULT 0,
    output_tokens      INTEGER NOT NULL DEFAULT 0,
    cost_micros        INTEGER NOT NULL DEFAULT 0,
    output             TEXT    CHECK (json_valid(output)),
    output_ref         TEXT,
    error              TEXT    CHECK (json_valid(error)),
    created_at         INTEGER NOT NULL,
    updated_at         INTEGER NOT NULL,
    -- One instance for each place of each tree: a reducer cannot be spawned twice (I6).
    UNIQUE (run_id, group_id, level, ordinal, generation),
    CHECK ((status = 'running') = (worker_incarnation IS NOT NULL)),
    CHECK (status <> 'running' OR granted_at IS NOT NULL),
    CHECK (granted_at IS NULL OR status IN ('queued', 'running')),
    CHECK ((status = 'waiting') = (waiting_for IS NOT NULL)),
    CHECK ((status = 'completed') = (state = 'completed')),
    CHECK ((status = 'completed') = (output IS NOT NULL OR output_ref IS NOT NULL)),
    CHECK (status NOT IN ('failed', 'timeout', 'cancelled') OR error IS NOT NULL)
) STRICT;
-- Dispatch: due, not granted; reducers (higher levels) first. An append touches none of these indexes. `run_after` is
-- there so that what is due can be counted in the index alone.
CREATE INDEX instances_due ON agent_instances (run_id, level DESC, ordinal, run_after) WHERE status = 'queued' AND granted_at IS NULL;
CREATE INDEX instances_in_flight ON agent_instances (run_id, status) WHERE granted_at IS NOT NULL;
CREATE INDEX instances_held ON agent_instances (worker_incarnation) WHERE status = 'running';
CREATE INDEX instances_waiting ON agent_instances (run_id) WHERE status = 'waiting';
CREATE INDEX instances_on_timer ON agent_instances (run_after) WHERE status = 'waiting' AND run_after IS NOT NULL;
CREATE INDEX instances_to_cancel ON agent_instances (status) WHERE cancel_requested = 1;

-- The logs. The key has no timestamp, so that a fork is refused (I3). New entries go to the end of the table; only
-- the small key is placed by instance.
CREATE TABLE agent_events (
    run_id      BLOB    NOT NULL,
    instance_id BLOB    NOT NULL,
    seq         INTEGER NOT NULL CHECK (seq > 0),
    epoch       INTEGER NOT NULL,
    type        TEXT    NOT NULL,
    payload     TEXT    NOT NULL CHECK (json_valid(payload)),
    at          INTEGER NOT NULL,
    hash        BLOB    NOT NULL,
    PRIMARY KEY (run_id, instance_id, seq)
) STRICT;

-- Nodes of the reduction trees, made by their first arrival.
CREATE TABLE reductions (
    group_id         BLOB    NOT NULL,
    level            INTEGER NOT NULL CHECK (level > 0),
    ordinal          INTEGER NOT NULL CHECK (ordinal >= 0),
    generation       INTEGER NOT NULL DEFAULT 1,
    expected         INTEGER NOT NULL CHECK (expected > 0),
    arrived          INTEGER NOT NULL CHECK (arrived BETWEEN 0 AND expected),
    empty            INTEGER NOT NULL CHECK (empty BETWEEN 0 AND arrived),
    failed_leaves    INTEGER NOT NULL CHECK (failed_leaves >= 0),
    reducer_instance BLOB,
    PRIMARY KEY (group_id, level, ordinal, generation)
) STRICT, WITHOUT ROWID;

CREATE TABLE workers (
    incarnation   BLOB    PRIMARY KEY NOT NULL CHECK (length(incarnation) = 16),
    name          TEXT    NOT NULL,
    slots         INTEGER NOT NULL CHECK (slots >= 0),
    version       TEXT    NOT NULL,
    alive         INTEGER NOT NULL DEFAULT 1 CHECK (alive IN (0, 1)),
    heartbeat_at  INTEGER NOT NULL,
    registered_at INTEGER NOT NULL
) STRICT;
CREATE INDEX workers_alive ON workers (heartbeat_at) WHERE alive = 1;

-- Leases of roles: one dispatcher at a time.
CREATE TABLE role_leases (
    role       TEXT    PRIMARY KEY NOT NULL,
    holder     BLOB    NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency_keys (
    team_id      BLOB    NOT NULL,
    key          TEXT    NOT NULL,
    request_hash BLOB    NOT NULL,
    run_id       BLOB    NOT NULL,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (team_id, key)
) STRICT, WITHOUT ROWID;

-- Budgets are admission control (I7). The rows are read and written from the issue that brings budgets on.
CREATE TABLE budgets (
    scope_kind TEXT    NOT NULL CHECK (scope_kind IN ('team', 'project', 'run', 'instance')),
    scope_id   BLOB    NOT NULL,
    resource   TEXT    NOT NULL CHECK (resource IN ('tokens', 'money', 'instances', 'tool_calls')),
    team_id    BLOB    NOT NULL,
    project_id BLOB    NOT NULL,
    "limit"    INTEGER NOT NULL CHECK ("limit" >= 0),
    reserved   INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    spent      INTEGER NOT NULL DEFAULT 0 CHECK (spent >= 0),
    PRIMARY KEY (scope_kind, scope_id, resource),
    CHECK (reserved + spent <= "limit")
) STRICT, WITHOUT ROWID;

-- The kv tool: private to an instance, every operation idempotent.
CREATE TABLE tool_kv (
    instance_id BLOB NOT NULL,
    key         TEXT NOT NULL,
    value       TEXT NOT NULL CHECK (json_valid(value)),
    PRIMARY KEY (instance_id, key)
) STRICT, WITHOUT ROWID;
