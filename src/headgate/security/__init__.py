"""
Who calls, what they may do, and what is written down of it.

- `identity`        callers, made by a login
- `identities`      logins, and whether they still hold
- `accounts`        users, tokens and certificates, as they stand in the database
- `administration`  what an administrator does to them
- `passwords`       Argon2id, on threads of its own
- `throttle`        delay after wrong passwords
- `tickets`         what a client connects again with
- `policy`          may this caller do this?
- `audit`           the recorder of what happened
- `certificates`    the gateway's authority, and what it signs
"""
