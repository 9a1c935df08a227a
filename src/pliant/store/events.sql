-- SPDX-License-Identifier: Apache-2.0
-- What happened on a host, for people and programs to read. Bounded: see KINDS in events.py.

CREATE TABLE IF NOT EXISTS events (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    at       REAL NOT NULL,             -- seconds since the epoch
    kind     TEXT NOT NULL,             -- one of KINDS
    sentence TEXT NOT NULL,
    data     TEXT NOT NULL              -- JSON object
);

CREATE INDEX IF NOT EXISTS events_of_kind ON events (kind, id);

-- What the agent did to keep the kernel as the policies in force ask for; no policy is changed by it. Written before
-- the first step ('begun') and after the last was read back. What stays 'begun' was interrupted: the next look at the
-- kernel settles it, whatever was done of it.
CREATE TABLE IF NOT EXISTS adjustments (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    at         REAL NOT NULL,
    generation INTEGER NOT NULL,        -- in force
    cause      TEXT NOT NULL,
    steps      TEXT NOT NULL,           -- JSON: a list of sentences
    state      TEXT NOT NULL CHECK (state IN ('begun', 'done', 'undone'))
);
