-- FROZEN. The floor is what every later figure is a ratio to: this schema, and what the program beside it
-- writes to it, are not changed when the fleet changes.
--
-- It models what durability needs and nothing else: per instance one insert, one grant, one claim and one
-- finish; per step one row in a log with the fleet's primary key, and one row update; 200-byte JSON.

CREATE TABLE floor_instances (
    id         uuid        PRIMARY KEY,
    run_id     uuid        NOT NULL,
    status     text        NOT NULL,
    epoch      bigint      NOT NULL DEFAULT 0,
    last_seq   bigint      NOT NULL DEFAULT 0,
    worker     uuid,
    granted_at timestamptz,
    output     json,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);

CREATE TABLE floor_log (
    run_id      uuid   NOT NULL,
    instance_id uuid   NOT NULL,
    seq         bigint NOT NULL,
    payload     json   NOT NULL,
    PRIMARY KEY (run_id, instance_id, seq)
);
