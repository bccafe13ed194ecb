"""The decode loop: requests, batching, KV cache, graph pool, records."""
