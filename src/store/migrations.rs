//! What the database's tables are, as the steps that lead there from each version.

/// Each entry takes the database one `user_version` further. Entries are never changed once released.
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE contacts (
        did TEXT PRIMARY KEY NOT NULL,
        name TEXT NOT NULL,
        folded TEXT NOT NULL UNIQUE,  -- the name in lower case, for all of Unicode (NOCASE is ASCII only)
        address TEXT
    ) STRICT;
    CREATE TABLE seen (
        id INTEGER PRIMARY KEY,
        sender TEXT NOT NULL,
        message BLOB NOT NULL,
        contact INTEGER NOT NULL,
        time_ms INTEGER NOT NULL,
        UNIQUE (sender, message)
    ) STRICT;
    CREATE INDEX seen_by_age ON seen (contact, time_ms);
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY,
        time_ms INTEGER NOT NULL,
        json TEXT NOT NULL
    ) STRICT;
",
    "
    ALTER TABLE contacts ADD COLUMN policy TEXT NOT NULL DEFAULT 'ask' CHECK (policy IN ('allow', 'ask', 'block'));
    ALTER TABLE contacts ADD COLUMN volume_percent INTEGER NOT NULL DEFAULT 100 CHECK (volume_percent BETWEEN 0 AND 200);
    ALTER TABLE contacts ADD COLUMN audio_blocked INTEGER NOT NULL DEFAULT 0 CHECK (audio_blocked IN (0, 1));
    CREATE TABLE kept_calls (
        id INTEGER PRIMARY KEY,      -- grows, so that the oldest goes first
        call TEXT NOT NULL UNIQUE,
        bytes BLOB NOT NULL          -- proto::wire::kept; holds the call key
    ) STRICT;
    CREATE TABLE history (
        call TEXT PRIMARY KEY NOT NULL,
        direction TEXT NOT NULL CHECK (direction IN ('out', 'in')),
        inviter TEXT NOT NULL,
        participants TEXT NOT NULL,  -- a JSON array of DIDs, the own one left out
        known INTEGER NOT NULL,
        started_ms INTEGER NOT NULL,
        joined_ms INTEGER,
        ended_ms INTEGER,
        outcome TEXT                 -- NULL as long as ended_ms is
    ) STRICT;
    CREATE INDEX history_by_start ON history (started_ms);
    CREATE TABLE settings (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        do_not_disturb INTEGER NOT NULL DEFAULT 0 CHECK (do_not_disturb IN (0, 1)),
        marked_seq INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    INSERT INTO settings (id) VALUES (1);
    CREATE TABLE answers (
        id INTEGER PRIMARY KEY,      -- grows, so that the oldest goes first
        key TEXT NOT NULL UNIQUE,
        asked BLOB NOT NULL,
        json TEXT NOT NULL,
        time_ms INTEGER NOT NULL
    ) STRICT;
",
    "
    ALTER TABLE settings ADD COLUMN audio_input TEXT;   -- NULL: as the configuration says
    ALTER TABLE settings ADD COLUMN audio_output TEXT;
    ALTER TABLE settings ADD COLUMN audio_ring TEXT;
",
];
