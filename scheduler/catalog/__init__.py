"""What is known: profiles, presets of pools, engines and SLOs.

- `engine_presets.py` What each serving engine runs with when its users set nothing: policy, limits, pool and flags.
- `numbers.py` Bounded numbers, texts and lists for the typed models of workload and profile files.
- `pool_presets.py` The capture sizes that serving engines choose when their users choose none.
- `slo_presets.py` Latency targets with a public reference: MLPerf inference, Server and Interactive scenarios.
"""
