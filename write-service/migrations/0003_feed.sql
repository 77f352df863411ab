-- The published order: dense positions 1..N in commit order, given by the relay behind one lock.

CREATE TABLE feed_head (
    -- One row: its lock is the fence between relays. Whoever holds it numbers; all others wait.
    singleton boolean NOT NULL DEFAULT true PRIMARY KEY CHECK (singleton),
    -- The last position given; 0 before the first.
    position  bigint  NOT NULL DEFAULT 0 CHECK (position >= 0)
);

INSERT INTO feed_head DEFAULT VALUES;

CREATE TABLE feed (
    -- Position of the row's last event. The first event of the row stands at position - event_count + 1, so the row that
    -- holds position p is the first one with position >= p.
    position       bigint    PRIMARY KEY CHECK (position >= 1),
    -- The append batch. Unique: moving a batch twice fails instead of publishing it twice.
    batch_id       bigint    NOT NULL UNIQUE,
    stream_ids     uuid[]    NOT NULL,
    first_versions bigint[]  NOT NULL,
    counts         integer[] NOT NULL,
    event_count    integer   NOT NULL CHECK (event_count >= 1)
);

COMMENT ON TABLE feed IS 'Appended only, by the relay. Never updated, never deleted.';
