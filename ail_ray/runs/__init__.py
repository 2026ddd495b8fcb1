"""One run, in this process: its directory, commits, lease, importance store, preparation, status. No Ray, no MLflow."""
