"""The trap of a pool that ends below the batch, as docs/pool_ceiling.md shows it.

- `page.py` Every number and the figure of docs/pool_ceiling.md.
- `pool_trap.py` The trap of a pool whose largest capture size lies below the batches that the engine admits.
- `vllm.py` A real vLLM falling into the pool ceiling: the picture of the README, from recorded engines.
"""
