-- The spine. Who may write what, under which lock: docs/protocol.md. The CHECKs repeat the invariants, because
-- psql and old binaries bypass Rust. Lock order: runs, agent_instances by id, reductions, groups, budgets, counters.

CREATE TABLE agent_templates (
    id          uuid        NOT NULL,
    version     integer     NOT NULL CHECK (version > 0),
    team_id     uuid        NOT NULL,
    project_id  uuid        NOT NULL,
    name        text        NOT NULL,
    spec_json   json        NOT NULL,
    spec_hash   bytea       NOT NULL CHECK (octet_length(spec_hash) = 32),
    status      text        NOT NULL DEFAULT 'active' CHECK (status IN ('draft', 'provisioning', 'active', 'failed', 'deprecated')),
    paused      boolean     NOT NULL DEFAULT false,
    cancel_requested boolean NOT NULL DEFAULT false,
    created_by  text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, version),
    UNIQUE (team_id, name, version)
);

-- One active version per environment; activating another is one row.
CREATE TABLE template_activations (
    template_id  uuid        NOT NULL,
    environment  text        NOT NULL CHECK (environment IN ('dev', 'stage', 'prod')),
    version      integer     NOT NULL,
    activated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (template_id, environment),
    FOREIGN KEY (template_id, version) REFERENCES agent_templates (id, version)
);

-- Contexts and compiled policies by content: written once, never changed.
CREATE TABLE blobs (
    hash       bytea       PRIMARY KEY CHECK (octet_length(hash) = 32),
    bytes      bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Immutable but for its flags: how a run ended is in run_outcomes, how far it is in run_counters, so that
-- finishing an instance never needs more than a key share lock here.
CREATE TABLE runs (
    id               uuid        PRIMARY KEY,
    team_id          uuid        NOT NULL,
    project_id       uuid        NOT NULL,
    root_group       uuid        NOT NULL,
    root_instance    uuid,
    spec_json        json        NOT NULL,
    template_id      uuid        NOT NULL,
    template_version integer     NOT NULL,
    template_name    text        NOT NULL,
    max_parallel     integer     NOT NULL CHECK (max_parallel > 0),
    priority         smallint    NOT NULL CHECK (priority BETWEEN 0 AND 9),
    generation       integer     NOT NULL DEFAULT 1,
    sealed           boolean     NOT NULL DEFAULT true,
    paused           boolean     NOT NULL DEFAULT false,
    cancel_requested boolean     NOT NULL DEFAULT false,
    cancel_reason    text,
    -- Set by the cascade once the outcome is closed: takes the run off the two indexes below, which would grow for ever.
    closed           boolean     NOT NULL DEFAULT false,
    deadline_at      timestamptz,
    traceparent      text,
    created_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX runs_by_team ON runs (team_id, id);
CREATE INDEX runs_with_deadline ON runs (deadline_at) WHERE deadline_at IS NOT NULL AND NOT closed;
CREATE INDEX runs_to_cancel ON runs (id) WHERE cancel_requested AND NOT closed;

-- How a run ended: inserted once, never changed (I5). `closed` when none of its instances is live any more.
CREATE TABLE run_outcomes (
    run_id          uuid        PRIMARY KEY REFERENCES runs (id),
    status          text        NOT NULL CHECK (status IN ('completed', 'failed', 'timeout', 'cancelled')),
    result_instance uuid,
    error           json,
    closed          boolean     NOT NULL,
    finished_at     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX run_outcomes_open ON run_outcomes (run_id) WHERE NOT closed;

-- Added up over the shards; a writer uses a shard of its own, so that writers do not wait for each other.
CREATE TABLE run_counters (
    run_id        uuid     NOT NULL,
    shard         smallint NOT NULL,
    total         bigint   NOT NULL DEFAULT 0,
    waiting       bigint   NOT NULL DEFAULT 0,
    completed     bigint   NOT NULL DEFAULT 0,
    failed        bigint   NOT NULL DEFAULT 0,
    timeout       bigint   NOT NULL DEFAULT 0,
    cancelled     bigint   NOT NULL DEFAULT 0,
    steps         bigint   NOT NULL DEFAULT 0,
    input_tokens  bigint   NOT NULL DEFAULT 0,
    output_tokens bigint   NOT NULL DEFAULT 0,
    cost_micros   bigint   NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, shard)
) WITH (fillfactor = 50);

-- Siblings spawned together, and the tree over them. Immutable once sealed, but for failed_leaves and done.
CREATE TABLE groups (
    id               uuid        PRIMARY KEY,
    run_id           uuid        NOT NULL REFERENCES runs (id),
    team_id          uuid        NOT NULL,
    project_id       uuid        NOT NULL,
    parent_id        uuid,
    total            bigint      NOT NULL CHECK (total >= 0),
    chunk            integer     NOT NULL CHECK (chunk >= 2),
    reduces          boolean     NOT NULL,
    tolerated        bigint      NOT NULL CHECK (tolerated >= 0),
    context_hash     bytea,
    reducer_template_id uuid,
    reducer_template_version integer,
    reducer_template_name text,
    reducer_policy_hash bytea,
    reducer_task     text,
    failed_leaves    bigint      NOT NULL DEFAULT 0 CHECK (failed_leaves BETWEEN 0 AND total),
    done             boolean     NOT NULL DEFAULT false,
    created_at       timestamptz NOT NULL DEFAULT now(),
    CHECK (reduces = (reducer_policy_hash IS NOT NULL))
);
CREATE INDEX groups_by_run ON groups (run_id);

CREATE TABLE agent_instances (
    id                 uuid        PRIMARY KEY,
    run_id             uuid        NOT NULL,
    group_id           uuid        NOT NULL,
    parent_id          uuid,
    team_id            uuid        NOT NULL,
    project_id         uuid        NOT NULL,
    level              integer     NOT NULL DEFAULT 0 CHECK (level >= 0),
    ordinal            bigint      NOT NULL CHECK (ordinal >= 0),
    generation         integer     NOT NULL DEFAULT 1,
    template_id        uuid        NOT NULL,
    template_version   integer     NOT NULL,
    template_name      text        NOT NULL,
    policy_hash        bytea       NOT NULL,
    context_hash       bytea,
    core_rev           integer     NOT NULL,
    depth              integer     NOT NULL DEFAULT 0,
    priority           smallint    NOT NULL CHECK (priority BETWEEN 0 AND 9),
    name               text,
    role               text,
    task               text        NOT NULL,
    status             text        NOT NULL CHECK (status IN ('queued', 'running', 'waiting', 'completed', 'failed', 'timeout', 'cancelled')),
    state              text        NOT NULL CHECK (state IN ('init', 'planning', 'executing', 'synthesizing', 'completed', 'failed', 'timeout')),
    waiting_for        text        CHECK (waiting_for IN ('children', 'timer')),
    step               integer     NOT NULL DEFAULT 0 CHECK (step >= 0),
    epoch              bigint      NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    worker_incarnation uuid,
    last_seq           bigint      NOT NULL DEFAULT 0,
    last_hash          bytea       NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    wake_seq           bigint      NOT NULL DEFAULT 0,
    run_after          timestamptz,
    granted_at         timestamptz,
    started_at         timestamptz,
    deaths             integer     NOT NULL DEFAULT 0,
    deaths_at_seq      bigint      NOT NULL DEFAULT 0,
    paused             boolean     NOT NULL DEFAULT false,
    cancel_requested   boolean     NOT NULL DEFAULT false,
    input_tokens       bigint      NOT NULL DEFAULT 0,
    output_tokens      bigint      NOT NULL DEFAULT 0,
    cost_micros        bigint      NOT NULL DEFAULT 0,
    output             json,
    output_ref         text,
    error              json,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    -- One instance for each place of each tree: a reducer cannot be spawned twice (I6).
    UNIQUE (run_id, group_id, level, ordinal, generation),
    CHECK ((status = 'running') = (worker_incarnation IS NOT NULL)),
    CHECK (status <> 'running' OR granted_at IS NOT NULL),
    CHECK (granted_at IS NULL OR status IN ('queued', 'running')),
    CHECK ((status = 'waiting') = (waiting_for IS NOT NULL)),
    CHECK ((status = 'completed') = (state = 'completed')),
    CHECK ((status = 'completed') = (output IS NOT NULL OR output_ref IS NOT NULL)),
    CHECK (status NOT IN ('failed', 'timeout', 'cancelled') OR error IS NOT NULL)
) WITH (fillfactor = 70);
-- Dispatch: due, not granted; reducers (higher levels) first. An append touches none of these indexes (HOT).
CREATE INDEX instances_due ON agent_instances (run_id, level DESC, ordinal) WHERE status = 'queued' AND granted_at IS NULL;
CREATE INDEX instances_in_flight ON agent_instances (run_id, status) WHERE granted_at IS NOT NULL;
CREATE INDEX instances_held ON agent_instances (worker_incarnation) WHERE worker_incarnation IS NOT NULL;
CREATE INDEX instances_waiting ON agent_instances (run_id) WHERE status = 'waiting';
-- Flagged while somebody held them, and given back or swept since: the cascade ends them.
CREATE INDEX instances_to_cancel ON agent_instances (id) WHERE cancel_requested AND status IN ('queued', 'waiting');
CREATE INDEX instances_on_timer ON agent_instances (run_after) WHERE status = 'waiting' AND run_after IS NOT NULL;

-- The logs. Range-partitioned on the time-ordered run id; the key has no timestamp, so that a fork is refused (I3).
CREATE TABLE agent_events (
    run_id      uuid        NOT NULL,
    instance_id uuid        NOT NULL,
    seq         bigint      NOT NULL CHECK (seq > 0),
    epoch       bigint      NOT NULL,
    type        text        NOT NULL,
    payload     json        NOT NULL,
    at          timestamptz NOT NULL,
    hash        bytea       NOT NULL,
    PRIMARY KEY (run_id, instance_id, seq)
) PARTITION BY RANGE (run_id);
CREATE TABLE agent_events_default PARTITION OF agent_events DEFAULT;

-- The partition for the runs of one month, unless it is there. Bounds are the smallest UUIDv7 of each month (RFC 9562 §5.7).
CREATE FUNCTION muster_event_partition(month date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    first date := date_trunc('month', month)::date;
    low   text := lpad(to_hex((extract(epoch FROM first::timestamp AT TIME ZONE 'UTC') * 1000)::bigint), 12, '0');
    high  text := lpad(to_hex((extract(epoch FROM (first + interval '1 month')::timestamp AT TIME ZONE 'UTC') * 1000)::bigint), 12, '0');
BEGIN
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF agent_events FOR VALUES FROM (%L) TO (%L)',
        'agent_events_' || to_char(first, 'YYYY_MM'),
        substr(low, 1, 8) || '-' || substr(low, 9, 4) || '-0000-0000-000000000000',
        substr(high, 1, 8) || '-' || substr(high, 9, 4) || '-0000-0000-000000000000');
END $$;
SELECT muster_event_partition((date_trunc('month', now()) + make_interval(months => ahead))::date) FROM generate_series(0, 2) AS ahead;

-- Nodes of the reduction trees, made by their first arrival.
CREATE TABLE reductions (
    group_id         uuid    NOT NULL,
    level            integer NOT NULL CHECK (level > 0),
    ordinal          bigint  NOT NULL CHECK (ordinal >= 0),
    generation       integer NOT NULL DEFAULT 1,
    expected         bigint  NOT NULL CHECK (expected > 0),
    arrived          bigint  NOT NULL CHECK (arrived BETWEEN 0 AND expected),
    empty            bigint  NOT NULL CHECK (empty BETWEEN 0 AND arrived),
    failed_leaves    bigint  NOT NULL CHECK (failed_leaves >= 0),
    reducer_instance uuid,
    PRIMARY KEY (group_id, level, ordinal, generation)
) WITH (fillfactor = 70);

CREATE TABLE workers (
    incarnation   uuid        PRIMARY KEY,
    name          text        NOT NULL,
    slots         integer     NOT NULL CHECK (slots >= 0),
    version       text        NOT NULL,
    alive         boolean     NOT NULL DEFAULT true,
    heartbeat_at  timestamptz NOT NULL DEFAULT now(),
    registered_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX workers_alive ON workers (heartbeat_at) WHERE alive;

-- Leases of roles: one dispatcher at a time, in any process.
CREATE TABLE role_leases (
    role       text        PRIMARY KEY,
    holder     uuid        NOT NULL,
    expires_at timestamptz NOT NULL
);

CREATE TABLE idempotency_keys (
    team_id      uuid        NOT NULL,
    key          text        NOT NULL,
    request_hash bytea       NOT NULL,
    run_id       uuid        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (team_id, key)
);

-- Budgets are admission control (I7). The rows are read and written from the issue that brings budgets on.
CREATE TABLE budgets (
    scope_kind text   NOT NULL CHECK (scope_kind IN ('team', 'project', 'run', 'instance')),
    scope_id   uuid   NOT NULL,
    resource   text   NOT NULL CHECK (resource IN ('tokens', 'money', 'instances', 'tool_calls')),
    team_id    uuid   NOT NULL,
    project_id uuid   NOT NULL,
    "limit"    bigint NOT NULL CHECK ("limit" >= 0),
    reserved   bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    spent      bigint NOT NULL DEFAULT 0 CHECK (spent >= 0),
    PRIMARY KEY (scope_kind, scope_id, resource),
    CHECK (reserved + spent <= "limit")
);

-- The kv tool: private to an instance, every operation idempotent.
CREATE TABLE tool_kv (
    instance_id uuid NOT NULL,
    key         text NOT NULL,
    value       json NOT NULL,
    PRIMARY KEY (instance_id, key)
);
