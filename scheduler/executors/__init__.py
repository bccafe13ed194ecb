"""What a step takes: a cost model, real execution, or a step log."""
