-- The only truth: every event of every order, customer and product, for ever.
-- Forward only: a released migration is never edited; a change is a new file that expands first and contracts later.

CREATE TABLE store (
    -- One row: this is one store.
    singleton boolean    NOT NULL DEFAULT true PRIMARY KEY CHECK (singleton),
    -- Consumers keep it beside their checkpoint: another id means that the store was created anew, and that the
    -- checkpoint counts positions of a feed that no longer exists.
    store_id  uuid       NOT NULL DEFAULT gen_random_uuid()
);

INSERT INTO store DEFAULT VALUES;

CREATE TABLE event (
    -- The order's id; for customers and products UUIDv5 of category and key.
    stream_id   uuid     NOT NULL,
    -- From 1. That a version has its predecessor is checked by the append statement, in the same snapshot.
    version     bigint   NOT NULL CHECK (version >= 1),
    -- The append batch that stored it; finds the event's place in the feed.
    batch_id    bigint   NOT NULL,
    -- orders.v1.StreamCategory.
    category    smallint NOT NULL CHECK (category BETWEEN 1 AND 3),
    -- Fixed hash of category and key. Not part of the key: UUIDv7 streams that were made together stay together on disk.
    slice       smallint NOT NULL CHECK (slice BETWEEN 0 AND 1023),
    -- What the body is, for ever; a changed meaning is a new pair of type and schema with an upcaster from the old one.
    type        text     NOT NULL CHECK (type <> ''),
    schema      smallint NOT NULL CHECK (schema >= 1),
    -- Wire bytes of orders.v1.RecordedEvent: metadata holds the envelope, without position; body holds the oneof field.
    -- One after the other they are the whole message, so that publishing copies bytes and re-encodes nothing.
    metadata    bytea    NOT NULL,
    body        bytea    NOT NULL,
    -- Of the request that caused the event, where it had a request_id. Beside the metadata, not in it: it is not published.
    fingerprint bytea    CHECK (octet_length(fingerprint) = 16),
    -- The concurrency check: of two appends after the same version, one fails here.
    PRIMARY KEY (stream_id, version)
);

COMMENT ON TABLE event IS 'Appended only. Never updated, never deleted.';
