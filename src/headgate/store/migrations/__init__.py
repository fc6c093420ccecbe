"""
Alembic's revisions, oldest first in `versions`.

A released revision is never changed: the next one is added and named in `schema.REVISIONS`.
There is no way back to an older schema.
"""
