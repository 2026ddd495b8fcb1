"""A sweep: what was asked, which trials that makes, what they cost, and its tables. No Ray, no MLflow."""
