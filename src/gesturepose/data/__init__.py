"""Reading, checking and preparing recordings in FPHA's layout."""
