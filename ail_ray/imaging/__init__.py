"""Images as arrays: read, degraded, measured, grouped into sets and shards; knows no model, no cluster."""
