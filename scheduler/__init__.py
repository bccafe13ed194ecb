"""graphpool: which decode batch sizes to capture as CUDA graphs, simulated in the closed loop."""

__version__ = "0.1.0"
