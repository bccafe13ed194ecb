"""Recorded engine runs: what a real engine decided, launched and handed over, step by step."""
