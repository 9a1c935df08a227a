-- SPDX-License-Identifier: Apache-2.0
-- What is switched off, from generation `since` until just before generation `until`. A rollback changes none of it.

CREATE TABLE IF NOT EXISTS switches (
    kind   TEXT NOT NULL CHECK (kind IN ('host', 'policy', 'service')),
    name   TEXT NOT NULL,               -- a policy's name, a service's pattern; '' for the host
    since  INTEGER NOT NULL,
    until  INTEGER,
    reason TEXT NOT NULL,
    actor  TEXT NOT NULL,
    at     REAL NOT NULL,               -- seconds since the epoch
    PRIMARY KEY (kind, name, since)
) WITHOUT ROWID;
