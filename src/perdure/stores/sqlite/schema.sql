-- Version 2; upgrades/ has the way from older ones. What a finished run of ten steps takes is measured in tests/unit/test_sqlite.py.
--
-- Small things are kept small: texts that repeat are numbers of `name`; canonical UUIDs are 16
-- bytes; statuses and kinds are the numbers of codes.py; 0, 1 and NULL take no byte. Instants are
-- microseconds since the epoch; where the text says "after", they are a distance, which is shorter.
-- Payloads over 1 KiB stand in `payload`, because SQLite rewrites a whole row when any column
-- changes. Columns have a DEFAULT so that the common row is inserted with few parameters: each one
-- costs 0.2 us.

CREATE TABLE name (              -- namespaces, definitions, versions, queues, workers, call sites
    id INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
);

CREATE TABLE run (
    seq INTEGER PRIMARY KEY,     -- the order of creation
    namespace INTEGER NOT NULL,
    id NOT NULL,                 -- a UUID as 16 bytes, any other as text
    -- 0 queued 1 running 2 waiting 3 paused 4 completed 5 failed 6 cancelled
    status INTEGER NOT NULL DEFAULT 0,
    definition INTEGER,
    queue INTEGER,
    rank INTEGER DEFAULT 1,      -- 0 resumed 1 fresh 2 suspect
    priority INTEGER,
    due_at INTEGER,
    epoch INTEGER DEFAULT 0,
    grant_token INTEGER DEFAULT 0,
    control INTEGER DEFAULT 0,   -- 1 cancel 2 pause 3 restart 4 compensate
    generation INTEGER DEFAULT 0,
    created_at INTEGER,
    updated_at INTEGER DEFAULT 0, -- after created_at
    worker INTEGER,
    claimed_at INTEGER,          -- after created_at
    started_at INTEGER,          -- after created_at
    finished_at INTEGER,         -- after created_at
    paused_at INTEGER,           -- after created_at
    attempt INTEGER DEFAULT 1,
    crashes INTEGER DEFAULT 0,
    waiting_for INTEGER,         -- 0 delay 1 retry 2 child 3 sleep 4 event
    coalesce_for INTEGER DEFAULT 0,
    waits INTEGER DEFAULT 0,     -- how many rows of `wait` it has
    version INTEGER,
    token INTEGER,
    parent,                      -- as id
    root,                        -- as id
    unique_key TEXT,
    reason TEXT,
    misfits TEXT,                -- a JSON list
    tags TEXT,                   -- a JSON list
    culprits BLOB,
    input BLOB,                  -- these five: a number is the length of a row in `payload`
    meta BLOB,
    options BLOB,
    result BLOB,
    error BLOB,
    caused_by TEXT,              -- event:…, schedule:…, fork:…; NULL for a call
    limit_key TEXT,
    parked INTEGER DEFAULT 0,    -- status 0: 1 while it stands behind the gate of its limit_key
    slot INTEGER,                -- status 1: 1 where it counts for the limits of its queue
    undoing INTEGER DEFAULT 0,   -- 1 cancel 2 compensate 3 failure
    cleans INTEGER DEFAULT 0,
    key_passed_to,               -- as id: who has its unique_key since, though it had not ended
    retention INTEGER,           -- how long it is kept after its end; NULL: as its definition says
    kept_until INTEGER,          -- it was over and needed: when to look at it again
    on_parent_close INTEGER DEFAULT 0, -- 0 abandon 1 cancel 2 wait
    attaches INTEGER DEFAULT 0,  -- it has children whose on_parent_close is not 0, and is not over
    pin INTEGER DEFAULT 0,       -- the version with which alone it goes on; 0: any
    continued INTEGER DEFAULT 0, -- how often it has continued as new
    progress BLOB                -- how far it has said to be
);
CREATE UNIQUE INDEX run_id ON run (namespace, id);
CREATE UNIQUE INDEX run_unique ON run (namespace, definition, unique_key)
    WHERE unique_key IS NOT NULL AND status < 4 AND key_passed_to IS NULL;
CREATE INDEX run_ready ON run (namespace, queue, definition, pin, rank, priority)
    WHERE status = 0 AND parked = 0;
CREATE INDEX run_suspect ON run (namespace, queue, definition, pin, priority)
    WHERE status = 0 AND parked = 0 AND rank = 2;
CREATE INDEX run_keyed ON run (namespace, queue, limit_key, parked, definition, pin, rank, priority)
    WHERE status = 0 AND limit_key IS NOT NULL;
CREATE INDEX run_slot ON run (namespace, queue, limit_key) WHERE status = 1 AND slot = 1;
CREATE INDEX run_misfit ON run (namespace, definition, pin, misfits) WHERE status = 3;
CREATE INDEX run_pinned ON run (namespace, definition, pin) WHERE pin <> 0 AND status < 4;
CREATE INDEX run_due ON run (namespace, due_at) WHERE status = 2 AND due_at IS NOT NULL;
CREATE INDEX run_due_keyed ON run (namespace, due_at)
    WHERE status = 2 AND due_at IS NOT NULL AND limit_key IS NOT NULL;
CREATE INDEX run_held ON run (namespace, worker, grant_token) WHERE status = 1;
CREATE INDEX run_controlled ON run (namespace, worker) WHERE status = 1 AND control <> 0;
CREATE INDEX run_child ON run (namespace, parent) WHERE parent IS NOT NULL;
CREATE INDEX run_caused ON run (namespace, caused_by) WHERE caused_by IS NOT NULL;
-- not IN (3, 5, 6): that costs 1 us at each change of a run, these comparisons nothing
CREATE INDEX run_ailing ON run (namespace, status) WHERE status > 2 AND status <> 4;

-- Ended runs, for the pruner: those that are kept as their definition says, and the others.
CREATE INDEX run_ended
    ON run (namespace, definition, status + 3 * (reason IS 'declined'), created_at + finished_at)
    WHERE status > 3 AND retention IS NULL AND kept_until IS NULL;
CREATE INDEX run_kept ON run (namespace, coalesce(kept_until, created_at + finished_at + retention))
    WHERE status > 3 AND (retention IS NOT NULL OR kept_until IS NOT NULL);

CREATE TABLE run_count (         -- of the runs up to counted.upto; see counting.py
    namespace INTEGER NOT NULL,
    definition INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    status INTEGER NOT NULL,
    runs INTEGER NOT NULL,
    PRIMARY KEY (namespace, definition, queue, status)
) WITHOUT ROWID;

CREATE TABLE counted (           -- one row
    upto INTEGER NOT NULL
);
INSERT INTO counted VALUES (0);

CREATE TABLE payload (
    id INTEGER PRIMARY KEY,      -- run * 8 + column: 0 input 1 meta 2 options 3 result 4 error
    data BLOB NOT NULL
);

CREATE TABLE checkpoint (
    seq INTEGER PRIMARY KEY,     -- the order of first recording
    run INTEGER NOT NULL,
    generation INTEGER NOT NULL DEFAULT 0,
    path TEXT NOT NULL,
    k INTEGER NOT NULL,
    scope BLOB NOT NULL,
    fingerprint BLOB NOT NULL,
    position INTEGER,
    kind INTEGER DEFAULT 0,      -- 0 step 1 enqueue 2 child 3 sleep 4 wait_for_event 5 publish 6 send_event
                                 -- 9 patch 10 origin
    outcome INTEGER DEFAULT 0,   -- 0 ok 1 error 2 timeout 3 pending 4 cancelled
    tries INTEGER DEFAULT 1,
    epoch INTEGER,
    started_at INTEGER,          -- after the run's created_at
    ended_at INTEGER,            -- after started_at
    due_at INTEGER,
    site INTEGER,
    text TEXT,
    log BLOB,
    value BLOB,
    told_at INTEGER              -- after ended_at: the feed tells of it by this row; see feed.py
);
CREATE UNIQUE INDEX checkpoint_key ON checkpoint (run, generation, path, k, scope, fingerprint);

CREATE TABLE wait (
    run INTEGER NOT NULL,
    number INTEGER NOT NULL,
    namespace INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    key NOT NULL,                -- kind 2: as run.id, else text; kind 4: the type
    due_at INTEGER,
    join_number INTEGER NOT NULL,
    open INTEGER NOT NULL,       -- kind 2: 1 until the run that it names has ended
    event_key TEXT,              -- kind 4: what the event must have; NULL: any
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
CREATE INDEX wait_child ON wait (namespace, key) WHERE kind = 2;
CREATE INDEX wait_event ON wait (namespace, key, event_key) WHERE kind = 4;
CREATE INDEX wait_open ON wait (run, join_number) WHERE kind = 2 AND open = 1;

CREATE TABLE attempt (
    seq INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    number INTEGER,
    epoch INTEGER,
    worker INTEGER,
    claimed_at INTEGER,
    ended_at INTEGER,
    outcome TEXT,
    error BLOB,
    due_at INTEGER
);
CREATE INDEX attempt_run ON attempt (run);

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    action TEXT,
    at INTEGER
);
CREATE UNIQUE INDEX audit_request ON audit (run, request_id);

CREATE TABLE worker (
    seq INTEGER PRIMARY KEY,     -- the order of registration
    namespace INTEGER NOT NULL,
    id INTEGER NOT NULL,
    host TEXT,
    pid INTEGER,
    definitions TEXT,            -- a JSON object: name to version
    queues TEXT,                 -- a JSON list
    slots INTEGER,
    started_at INTEGER,
    beat_at INTEGER,
    beat INTEGER,
    lease INTEGER,               -- microseconds, as told; NULL: registered with schema 1
    heartbeat INTEGER,
    cleans TEXT,                 -- a JSON list; NULL: none
    earlier TEXT,                -- a JSON list of [name, version]; NULL: none
    pinning TEXT                 -- a JSON list; NULL: none
);
CREATE UNIQUE INDEX worker_id ON worker (namespace, id);

CREATE TABLE leader (            -- who fires schedules and prunes
    namespace INTEGER PRIMARY KEY,
    worker INTEGER,              -- NULL: the lead is vacant
    term INTEGER NOT NULL,       -- the present or last one
    since INTEGER NOT NULL
);

CREATE TABLE event (
    seq INTEGER PRIMARY KEY,     -- the order of acceptance
    namespace INTEGER NOT NULL,
    id TEXT NOT NULL,
    cause TEXT NOT NULL,         -- caused_by of the runs that it started
    type INTEGER NOT NULL,
    key TEXT,
    run INTEGER,                 -- that it was sent to; NULL: to all
    at INTEGER NOT NULL,
    payload BLOB NOT NULL
);
CREATE UNIQUE INDEX event_id ON event (namespace, id);
CREATE INDEX event_type ON event (namespace, type, at) WHERE run IS NULL;
CREATE INDEX event_key ON event (namespace, type, key, at) WHERE run IS NULL AND key IS NOT NULL;
CREATE INDEX event_sent ON event (run, at) WHERE run IS NOT NULL;

CREATE TABLE taken (             -- by which wait of which run; generation -1: for good
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
    tags TEXT,                   -- a JSON list
    since INTEGER NOT NULL,
    announced_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, type, definition)
) WITHOUT ROWID;

CREATE TABLE schedule (
    namespace INTEGER NOT NULL,
    key TEXT NOT NULL,
    content BLOB NOT NULL,       -- JSON: what it says, and of which runs
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

CREATE TABLE fire (              -- what became of the instants of a schedule
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

CREATE TABLE queue (             -- those of which something is kept
    namespace INTEGER NOT NULL,
    name INTEGER NOT NULL,
    limits BLOB NOT NULL,        -- JSON
    paused_at INTEGER,
    next_start_at INTEGER NOT NULL, -- what is kept of its rate; see model/queues.py
    PRIMARY KEY (namespace, name)
) WITHOUT ROWID;

CREATE TABLE gate (              -- the runs of a queue that share a limit_key; see gates.py
    namespace INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    limit_key TEXT NOT NULL,
    look_at INTEGER,             -- when to choose anew who of them stands in run_ready
    next_start_at INTEGER NOT NULL, -- as of queue
    PRIMARY KEY (namespace, queue, limit_key)
) WITHOUT ROWID;
CREATE INDEX gate_look ON gate (namespace, look_at) WHERE look_at IS NOT NULL;

CREATE TABLE throttle (          -- the windows of unique keys; see model/keys.py
    namespace INTEGER NOT NULL,
    definition INTEGER NOT NULL,
    unique_key TEXT NOT NULL,
    until INTEGER NOT NULL,
    run NOT NULL,                -- as run.id
    PRIMARY KEY (namespace, definition, unique_key)
) WITHOUT ROWID;
CREATE INDEX throttle_until ON throttle (until);

CREATE TABLE debounced (         -- creates of which another run took the input
    namespace INTEGER NOT NULL,
    id NOT NULL,                 -- as run.id: what the create would have made
    token INTEGER NOT NULL,
    until INTEGER NOT NULL,
    run NOT NULL,                -- as run.id
    PRIMARY KEY (namespace, id, token)
) WITHOUT ROWID;
CREATE INDEX debounced_until ON debounced (until);

CREATE TABLE retention (         -- of definitions that do not go by the default
    namespace INTEGER NOT NULL,
    definition INTEGER NOT NULL,
    content BLOB NOT NULL,       -- JSON
    PRIMARY KEY (namespace, definition)
) WITHOUT ROWID;

-- Seqs are not given twice: of what is removed the newest leaves its seq behind.
CREATE TRIGGER run_removed AFTER DELETE ON run
WHEN NOT EXISTS (SELECT 1 FROM run WHERE seq > OLD.seq)
BEGIN DELETE FROM run WHERE namespace = 0; INSERT INTO run (seq, namespace, id, status, created_at) VALUES (OLD.seq, 0, 'removed', 4, OLD.created_at); END;

CREATE TRIGGER checkpoint_removed AFTER DELETE ON checkpoint
WHEN NOT EXISTS (SELECT 1 FROM checkpoint WHERE seq > OLD.seq)
BEGIN DELETE FROM checkpoint WHERE run = 0; INSERT INTO checkpoint (seq, run, path, k, scope, fingerprint) VALUES (OLD.seq, 0, 'removed', 0, x'', x''); END;

CREATE TABLE feed (              -- what happened, a row or several a transaction; see feed.py
    position INTEGER PRIMARY KEY, -- namespace * 2^40 + the number of its last entry
    runs INTEGER NOT NULL,       -- the seq of the newest run; creates up to that come before
    steps INTEGER NOT NULL,      -- of the newest checkpoint, likewise
    at INTEGER NOT NULL,
    changes BLOB NOT NULL        -- MessagePack: a list
);

CREATE TABLE feed_start (        -- of the row that was removed last, in namespaces that lost some
    namespace INTEGER PRIMARY KEY,
    number INTEGER NOT NULL,
    runs INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    at INTEGER NOT NULL
);

CREATE TABLE feed_removed (      -- what the feed tells by rows that were removed since
    namespace INTEGER NOT NULL,
    kind INTEGER NOT NULL,       -- 0 a row of run 1 of checkpoint
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    run NOT NULL,                -- as run.id
    definition INTEGER NOT NULL,
    queue INTEGER NOT NULL,
    epoch INTEGER,
    path TEXT,
    k INTEGER,
    PRIMARY KEY (namespace, kind, seq)
) WITHOUT ROWID;

CREATE TABLE feed_epoch (        -- one row: cursors of another database do not have it
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

CREATE TABLE stream (            -- of a run; see model/streams.py
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL,
    name TEXT NOT NULL,
    entries INTEGER NOT NULL,
    size INTEGER NOT NULL         -- bytes of the values
);
CREATE UNIQUE INDEX stream_name ON stream (run, name);

CREATE TABLE mark (              -- how far a scope has written
    stream INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    scope BLOB NOT NULL,
    path TEXT NOT NULL,
    written INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    PRIMARY KEY (stream, generation, scope)
) WITHOUT ROWID;

CREATE TABLE entry (             -- what was written
    stream INTEGER NOT NULL,
    number INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    until INTEGER NOT NULL,     -- the last generation that counts it as written
    scope BLOB NOT NULL,
    k INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    at INTEGER NOT NULL,         -- after the run's created_at
    value BLOB,                  -- NULL closes the stream
    PRIMARY KEY (stream, number)
) WITHOUT ROWID;

-- For people with nothing but the sqlite3 command; Perdure itself does not read it.
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
