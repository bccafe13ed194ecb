"""What it means: metrics, statistics, comparison, tuning, sweeps, validation."""
