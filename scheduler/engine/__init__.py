"""The decode loop: requests, batching, KV cache, graph pool, records.

- `acceptance.py` Which drafted tokens are accepted: request and place alone decide, so every run meets the same luck.
- `batching.py` The waiting queue, the running batch, and what every step policy does with them.
- `decode_times.py` What equal decode steps ask of host and GPU: a class, for compiled code calls its own classes fastest.
- `executor.py` The one seam between the loop and what a step takes: modelled, measured or read from a log.
- `graph_pool.py` The graph pool: which sizes were captured, by whose rules, and so which graph each step takes.
- `interrupt.py` Ctrl-C between two steps: held back while the loop changes its records, so that a partial run adds up.
- `kv_cache.py` The KV cache: blocks of `block_size` tokens, counted; freed blocks keep their identity for reuse.
- `ledger.py` Who received which token when: the times of every request, and the gaps between its tokens.
- `loop.py` The decode loop on the virtual clock: traffic arrives, the engine steps, answers end.
- `pipeline.py` When the steps of an engine begin and end: whole durations one after the other, or host and GPU apart.
- `policies.py` The step policies: who decodes and who prefills in the next step.
- `prefix_cache.py` The KV cache that knows what its blocks hold, so that requests share the blocks of equal prefixes.
- `recorder.py` How steps are noted while a run goes on: packed rows, which become the arrays of `records.py`.
- `records.py` What a run leaves behind: compact arrays per request and per step, and the gaps between tokens.
- `request.py` A request while it is in the batch.
- `sglang.py` SGLang's scheduler: admission by what answers may still need, retraction of the shortest answers.
- `speculation.py` Speculative decoding: a decode step verifies drafts, and requests advance by the accepted ones and one.
- `traffic.py` Which request the scheduler can see when: arrivals of an open loop, or the users of a closed one.
"""

from scheduler import compiled as compiled  # before any module of this room: compiled, or by its source
