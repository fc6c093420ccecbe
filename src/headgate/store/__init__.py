"""
The gateway's database: one folder, one writer.

- `store.store`: `Store`, what the gateway opens, writes to, reads from and closes; `read_folder`,
  for those who only look.
- `store.tables`: the tables, as SQLAlchemy Core sees them.
- `store.writer`: the one thread that writes, many functions to a commit.
- `store.schema`: brings a database to this program's schema.
- `store.engine`: everything that is special to SQLite.
- `store.lock`: one process to a data folder.
- `store.migrations`: Alembic's revisions; they travel inside the wheel.
"""

from __future__ import annotations

from headgate.store.store import Store, read_folder

__all__ = ["Store", "read_folder"]
