-- From schema 1 to 2. What is added here stands in schema.sql, too; a test compares the two.

ALTER TABLE run ADD COLUMN caused_by TEXT;
CREATE INDEX run_caused ON run (namespace, caused_by) WHERE caused_by IS NOT NULL;

-- Workers.

ALTER TABLE worker ADD COLUMN lease INTEGER;
ALTER TABLE worker ADD COLUMN heartbeat INTEGER;
ALTER TABLE worker ADD COLUMN cleans TEXT;
ALTER TABLE worker ADD COLUMN earlier TEXT;
ALTER TABLE worker ADD COLUMN pinning TEXT;

CREATE TABLE leader (
    namespace INTEGER PRIMARY KEY,
    worker INTEGER,
    term INTEGER NOT NULL,
    since INTEGER NOT NULL
);

-- Events.

ALTER TABLE wait ADD COLUMN event_key TEXT;
CREATE INDEX wait_event ON wait (namespace, key, event_key) WHERE kind = 4;

CREATE TABLE event (
    seq INTEGER PRIMARY KEY,
    namespace INTEGER NOT NULL,
    id TEXT NOT NULL,
    cause TEXT NOT NULL,
    type INTEGER NOT NULL,
    key TEXT,
    run INTEGER,
    at INTEGER NOT NULL,
    payload BLOB NOT NULL
);
CREATE UNIQUE INDEX event_id ON event (namespace, id);
CREATE INDEX event_type ON event (namespace, type, at) WHERE run IS NULL;
CREATE INDEX event_key ON event (namespace, type, key, at) WHERE run IS NULL AND key IS NOT NULL;
CREATE INDEX event_sent ON event (run, at) WHERE run IS NOT NULL;

CREATE TABLE taken (
    run INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    event INTEGER NOT NULL,
    checkpoint INTEGER NOT NULL,
    PRIMARY KEY (run, generation, event)
) WITHOUT ROWID;

CREATE INDEX taken_event ON taken (event);

CREATE TABLE listener (
    namespace INTEGER NOT NULL,
    type INTEGER NOT NULL,
    definition INTEGER NOT NULL,
    parameter TEXT NOT NULL,
    version INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    tags TEXT,
    since INTEGER NOT NULL,
    announced_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, type, definition)
) WITHOUT ROWID;

-- Schedules.

CREATE TABLE schedule (
    namespace INTEGER NOT NULL,
    key TEXT NOT NULL,
    content BLOB NOT NULL,
    revision INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    next_at INTEGER,
    last_at INTEGER,
    paused_at INTEGER,
    PRIMARY KEY (namespace, key)
) WITHOUT ROWID;
CREATE INDEX schedule_due ON schedule (namespace, next_at)
    WHERE paused_at IS NULL AND next_at IS NOT NULL;

CREATE TABLE fire (
    seq INTEGER PRIMARY KEY,
    namespace INTEGER NOT NULL,
    key TEXT NOT NULL,
    expected INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    until INTEGER NOT NULL,
    count INTEGER NOT NULL,
    at INTEGER NOT NULL,
    run TEXT
);
CREATE INDEX fire_key ON fire (namespace, key, seq);

-- Limits of queues.

ALTER TABLE run ADD COLUMN limit_key TEXT;
ALTER TABLE run ADD COLUMN parked INTEGER DEFAULT 0;
ALTER TABLE run ADD COLUMN slot INTEGER;
ALTER TABLE run ADD COLUMN undoing INTEGER DEFAULT 0;
ALTER TABLE run ADD COLUMN cleans INTEGER DEFAULT 0;
ALTER TABLE run ADD COLUMN pin INTEGER DEFAULT 0;
DROP INDEX run_ready;
CREATE INDEX run_ready ON run (namespace, queue, definition, pin, rank, priority)
    WHERE status = 0 AND parked = 0;
DROP INDEX run_suspect;
CREATE INDEX run_suspect ON run (namespace, queue, definition, pin, priority)
    WHERE status = 0 AND parked = 0 AND rank = 2;
CREATE INDEX run_keyed ON run (namespace, queue, limit_key, parked, definition, pin, rank, priority)
    WHERE status = 0 AND limit_key IS NOT NULL;
DROP INDEX run_misfit;
CREATE INDEX run_misfit ON run (namespace, definition, pin, misfits) WHERE status = 3;
CREATE INDEX run_pinned ON run (namespace, definition, pin) WHERE pin <> 0 AND status < 4;
CREATE INDEX run_slot ON run (namespace, queue, limit_key) WHERE status = 1 AND slot = 1;
CREATE INDEX run_due_keyed ON run (namespace, due_at)
    WHERE status = 2 AND due_at IS NOT NULL AND limit_key IS NOT NULL;

CREATE TABLE queue (
    namespace INTEGER NOT NULL,
    name INTEGER NOT NULL,
    limits BLOB NOT NULL,
    paused_at INTEGER,
    next_start_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) WITHOUT ROWID;

CREATE TABLE gate (
    namespace INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    limit_key TEXT NOT NULL,
    look_at INTEGER,
    next_start_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, queue, limit_key)
) WITHOUT ROWID;
CREATE INDEX gate_look ON gate (namespace, look_at) WHERE look_at IS NOT NULL;

-- Rules of unique keys.

ALTER TABLE run ADD COLUMN key_passed_to;
DROP INDEX run_unique;
CREATE UNIQUE INDEX run_unique ON run (namespace, definition, unique_key)
    WHERE unique_key IS NOT NULL AND status < 4 AND key_passed_to IS NULL;

CREATE TABLE throttle (
    namespace INTEGER NOT NULL,
    definition INTEGER NOT NULL,
    unique_key TEXT NOT NULL,
    until INTEGER NOT NULL,
    run NOT NULL,
    PRIMARY KEY (namespace, definition, unique_key)
) WITHOUT ROWID;
CREATE INDEX throttle_until ON throttle (until);

CREATE TABLE debounced (
    namespace INTEGER NOT NULL,
    id NOT NULL,
    token INTEGER NOT NULL,
    until INTEGER NOT NULL,
    run NOT NULL,
    PRIMARY KEY (namespace, id, token)
) WITHOUT ROWID;
CREATE INDEX debounced_until ON debounced (until);

-- Retention.

ALTER TABLE run ADD COLUMN retention INTEGER;
ALTER TABLE run ADD COLUMN kept_until INTEGER;
ALTER TABLE run ADD COLUMN on_parent_close INTEGER DEFAULT 0;
ALTER TABLE run ADD COLUMN attaches INTEGER DEFAULT 0;
ALTER TABLE run ADD COLUMN continued INTEGER DEFAULT 0;
ALTER TABLE run ADD COLUMN progress BLOB;
CREATE INDEX run_ended
    ON run (namespace, definition, status + 3 * (reason IS 'declined'), created_at + finished_at)
    WHERE status > 3 AND retention IS NULL AND kept_until IS NULL;
CREATE INDEX run_kept ON run (namespace, coalesce(kept_until, created_at + finished_at + retention))
    WHERE status > 3 AND (retention IS NOT NULL OR kept_until IS NOT NULL);

CREATE TABLE retention (
    namespace INTEGER NOT NULL,
    definition INTEGER NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (namespace, definition)
) WITHOUT ROWID;

-- Counts.

CREATE TABLE run_count (
    namespace INTEGER NOT NULL,
    definition INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    status INTEGER NOT NULL,
    runs INTEGER NOT NULL,
    PRIMARY KEY (namespace, definition, queue, status)
) WITHOUT ROWID;

CREATE TABLE counted (
    upto INTEGER NOT NULL
);
INSERT INTO run_count
    SELECT namespace, definition, queue, status, count(*) FROM run
    GROUP BY namespace, definition, queue, status;
INSERT INTO counted SELECT coalesce(max(seq), 0) FROM run;

-- The change feed.

-- Seqs are not given twice: of what is removed the newest leaves its seq behind.
CREATE TRIGGER run_removed AFTER DELETE ON run
WHEN NOT EXISTS (SELECT 1 FROM run WHERE seq > OLD.seq)
BEGIN DELETE FROM run WHERE namespace = 0; INSERT INTO run (seq, namespace, id, status, created_at) VALUES (OLD.seq, 0, 'removed', 4, OLD.created_at); END;

CREATE TRIGGER checkpoint_removed AFTER DELETE ON checkpoint
WHEN NOT EXISTS (SELECT 1 FROM checkpoint WHERE seq > OLD.seq)
BEGIN DELETE FROM checkpoint WHERE run = 0; INSERT INTO checkpoint (seq, run, path, k, scope, fingerprint) VALUES (OLD.seq, 0, 'removed', 0, x'', x''); END;

CREATE TABLE feed (
    position INTEGER PRIMARY KEY,
    runs INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    at INTEGER NOT NULL,
    changes BLOB NOT NULL
);

CREATE TABLE feed_start (
    namespace INTEGER PRIMARY KEY,
    number INTEGER NOT NULL,
    runs INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    at INTEGER NOT NULL
);

CREATE TABLE feed_removed (
    namespace INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    run NOT NULL,
    definition INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    epoch INTEGER,
    path TEXT,
    k INTEGER,
    PRIMARY KEY (namespace, kind, seq)
) WITHOUT ROWID;

ALTER TABLE checkpoint ADD COLUMN told_at INTEGER;

-- What happened before is not in it: neither are the creates.
INSERT INTO feed_start (namespace, number, runs, steps, at)
SELECT namespace, 0, (SELECT max(seq) FROM run), (SELECT coalesce(max(seq), 0) FROM checkpoint), 0
FROM run GROUP BY namespace;

CREATE TABLE feed_epoch (
    epoch TEXT NOT NULL
);
INSERT INTO feed_epoch (epoch) VALUES (lower(hex(randomblob(6))));

CREATE TABLE subscriber (
    namespace INTEGER NOT NULL,
    name TEXT NOT NULL,
    position TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    moved_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) WITHOUT ROWID;

CREATE TABLE stream (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    name TEXT NOT NULL,
    entries INTEGER NOT NULL,
    size INTEGER NOT NULL
);
CREATE UNIQUE INDEX stream_name ON stream (run, name);

CREATE TABLE mark (
    stream INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    scope BLOB NOT NULL,
    path TEXT NOT NULL,
    written INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    PRIMARY KEY (stream, generation, scope)
) WITHOUT ROWID;

CREATE TABLE entry (
    stream INTEGER NOT NULL,
    number INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    until INTEGER NOT NULL,
    scope BLOB NOT NULL,
    k INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    at INTEGER NOT NULL,
    value BLOB,
    PRIMARY KEY (stream, number)
) WITHOUT ROWID;

DROP VIEW runs;
CREATE VIEW runs AS
SELECT
    (SELECT text FROM name WHERE name.id = run.namespace) AS namespace,
    CASE typeof(id) WHEN 'blob' THEN lower(
        substr(hex(id), 1, 8) || '-' || substr(hex(id), 9, 4) || '-' || substr(hex(id), 13, 4)
        || '-' || substr(hex(id), 17, 4) || '-' || substr(hex(id), 21)
    ) ELSE id END AS id,
    CASE status
        WHEN 0 THEN 'queued' WHEN 1 THEN 'running' WHEN 2 THEN 'waiting' WHEN 3 THEN 'paused'
        WHEN 4 THEN 'completed' WHEN 5 THEN 'failed' WHEN 6 THEN 'cancelled'
    END AS status,
    (SELECT text FROM name WHERE name.id = run.definition) AS definition,
    (SELECT text FROM name WHERE name.id = run.queue) AS queue,
    attempt,
    epoch,
    reason,
    strftime('%Y-%m-%dT%H:%M:%fZ', created_at / 1e6, 'unixepoch') AS created_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', due_at / 1e6, 'unixepoch') AS due_at,
    seq
FROM run
WHERE namespace <> 0;
