"""What arrives: workload files, arrivals, lengths, traces."""
