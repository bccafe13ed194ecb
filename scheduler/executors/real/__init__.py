"""What a step takes when torch does it: decoder, static buffers, recorded graphs.

- `attention.py` Decode attention over a static KV slab: cut at a context bucket, or following each row's live length.
- `availability.py` Is real execution possible here? One clear line where it is not.
- `batch_rows.py` Which request sits in which row of the batch: decoding rows first, without holes, prefilling rows after.
- `cuda_graphs.py` Replay on a CUDA GPU. The only file that names torch.cuda graphs.
- `decoder.py` A Llama-style decoder with random weights: the real work of a step, the same code eager and captured.
- `device_clock.py` What time a step took: the clock of each device, and waiting for it.
- `model_shapes.py` Shapes of decoder-only transformers: enough to build one with random weights, and to count its bytes.
- `replay.py` Recording a step once and replaying it: the small protocol both backends keep, and what was recorded.
- `static_decoder.py` A decoder with everything static that replay needs: weights, KV slab, input and output buffers.
- `torch_executor.py` Executes every step of the loop on a real decoder: operation by operation, or by replaying a recorded step.
- `torch_session.py` Opens a device for real execution: weights, KV slab and recordings, shared by all variants of a run.
- `traced_graphs.py` Replay on a CPU: a step recorded at one fixed shape by torch.jit.trace and replayed without Python.
"""
