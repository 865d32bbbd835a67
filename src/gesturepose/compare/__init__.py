"""Label-efficiency curves of several revisions laid over each other: read, aligned, tested, shown."""
