"""
Who calls, what they may do, and what is written down of it.

- `identity`  callers, made by a login
- `policy`    may this caller do this?
- `zones`     from where a caller asks
- `patterns`  names with wildcards
- `rules`     the rules in the database, their changes and how to undo them
- `audit`     the recorder of what happened
"""
