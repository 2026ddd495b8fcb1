"""Networks and other code that a run names: ours, and whatever comes from outside, known by its source and probed."""
