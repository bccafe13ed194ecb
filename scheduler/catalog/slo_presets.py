"""Latency targets with a public reference: MLPerf inference, Server and Interactive scenarios.

Source: MLCommons inference policies, commit ac93e89 (July 2026), inference_rules.adoc, the table of
latency constraints: the 99th percentile of TTFT and of TPOT must stay below these milliseconds.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple


class SloPreset(NamedTuple):
    """99th-percentile limits of one benchmark scenario, in milliseconds."""

    ttft_ms: float
    tpot_ms: float


SLO_PRESETS = MappingProxyType(
    {
        "mlperf-llama3.1-8b-server": SloPreset(2000, 100),
        "mlperf-llama3.1-8b-interactive": SloPreset(500, 30),
        "mlperf-llama2-70b-server": SloPreset(2000, 200),
        "mlperf-llama2-70b-interactive": SloPreset(450, 40),
        "mlperf-llama3.1-405b-server": SloPreset(6000, 175),
        "mlperf-llama3.1-405b-interactive": SloPreset(4500, 80),
        "mlperf-deepseek-r1-server": SloPreset(2000, 80),
        "mlperf-deepseek-r1-interactive": SloPreset(1500, 15),
        "mlperf-gpt-oss-120b-server": SloPreset(3000, 80),
        "mlperf-gpt-oss-120b-interactive": SloPreset(2000, 20),
        "mlperf-mixtral-8x7b-server": SloPreset(2000, 200),
    }
)
