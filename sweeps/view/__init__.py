"""What a sweep looks like: live progress, status, reports, MLflow's UI."""
