-- SPDX-License-Identifier: Apache-2.0
-- One host's policies over time, and the journal of what was done to its kernel.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- One row a change of the host. At most one is 'applying'; if no process holds the lock, it was interrupted.
CREATE TABLE generations (
    number   INTEGER PRIMARY KEY,
    parent   INTEGER NOT NULL,          -- the generation in force before; 0: nothing
    verb     TEXT NOT NULL,             -- apply, delete, rollback, repair
    reason   TEXT NOT NULL,
    actor    TEXT NOT NULL,             -- who asked for it
    state    TEXT NOT NULL CHECK (state IN ('applying', 'applied', 'undone')),
    started  REAL NOT NULL,             -- seconds since the epoch
    finished REAL,
    steps    INTEGER NOT NULL           -- in its plan
);

-- A version of a policy was in force from generation `since` until just before generation `until`.
CREATE TABLE policies (
    name     TEXT NOT NULL,
    since    INTEGER NOT NULL,
    until    INTEGER,
    number   INTEGER NOT NULL,          -- its number in the kernel
    digest   TEXT NOT NULL,             -- of what the number stands for
    document TEXT NOT NULL,             -- the policy, as JSON
    PRIMARY KEY (name, since)
) WITHOUT ROWID;

CREATE INDEX policies_in_force ON policies (until, since);

-- Written before each step ('begun') and after it was read back ('done').
CREATE TABLE steps (
    generation INTEGER NOT NULL,
    position   INTEGER NOT NULL,
    undo       INTEGER NOT NULL,
    kind       TEXT NOT NULL,
    sentence   TEXT NOT NULL,
    reason     TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('begun', 'done')),
    at         REAL NOT NULL,
    PRIMARY KEY (generation, position, undo)
) WITHOUT ROWID;
