"""
Who calls, what they may do, and what is written down of it.

- `identity`  callers, made by a login
- `policy`    may this caller do this?
- `audit`     the recorder of what happened
- `certificates`  the gateway's authority, and what it signs
"""
