"""What is known: profiles, presets of pools, engines and SLOs."""
