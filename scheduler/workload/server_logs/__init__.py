"""What serving engines print and export: batches, start-up facts, measured requests.

- `batches.py` What serving engines print about their batches: histograms of decode and mixed steps, start-up facts.
- `measured.py` Measured runs: what a real server's requests saw, to hold a simulation against.
- `start_up.py` Start-up lines of vLLM and SGLang: what was captured, how long it took, what it left for the KV cache.
"""
