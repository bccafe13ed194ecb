"""A vLLM on paper: the classes and calls that the recorder hooks and the calibration drives, no GPU.

Names, arguments and the order of calls are those of vLLM 0.26.0; nothing of its code is here. Steps take
real milliseconds on the wall clock. FAKE_VLLM_BREAK names a place that raises.
"""

from __future__ import annotations

import os

from vllm.sampling_params import SamplingParams

__version__ = os.environ.get("FAKE_VLLM_VERSION", "0.26.0")
__all__ = ["SamplingParams"]
