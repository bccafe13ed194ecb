"""Which graph each batch takes: the engines' own rules by release, compiled to tables that are only looked up.

- `audit.py` What a capture list does to the batches that an engine admits, and the smallest change that repairs it.
- `engines.py` Engines by name and release: `vllm==0.33.0` to the rules that its batches follow.
- `plain.py` The rule of engines that have none of their own here: the smallest captured batch size that holds it.
- `sglang.py` SGLang's rules, read in the wheel of 0.5.23 and run from it as the oracle of the tests.
- `table.py` The table that an engine's dispatch rules are compiled to: batch or tokens → kind of graph, padded size.
- `trtllm.py` TensorRT-LLM's rules for its PyTorch backend, by reading (the code was not run).
- `vllm.py` vLLM's rules, read in the wheels of 0.26.0 to 0.33.0 and run from them as the oracle of the tests.
"""
