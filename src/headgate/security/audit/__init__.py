"""
What is written down of what happened, so that nobody can change it unseen.

- `record`     one record, its recorders, the settings
- `redaction`  payloads without secrets
- `chain`      the log's bytes: chained rows, signatures, the head
- `keys`       the key that signs
- `journal`    the files, for the one thread that writes them
- `log`        `AuditLog`: a queue that never blocks, and that thread
- `reading`    rows that were written, filtered
- `verify`     is everything there and as it was written?
"""

from __future__ import annotations

from headgate.security.audit.log import AuditLog
from headgate.security.audit.record import (
    AuditSettings,
    LogRecorder,
    Record,
    Recorder,
    Recorders,
)

__all__ = ["AuditLog", "AuditSettings", "LogRecorder", "Record", "Recorder", "Recorders"]
