"""The paper's Tables 1, 3 and 4 with further rows: trained, tested against each other, and shown beside its numbers."""
