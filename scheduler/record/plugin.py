"""What vLLM calls in each of its processes where graphpool is installed; imports nothing unless asked.

Entry point `vllm.general_plugins`. `GRAPHPOOL_RECORD=FILE` asks.
"""

from __future__ import annotations

import os

ASKED_BY = "GRAPHPOOL_RECORD"


def register() -> None:
    """Record engine steps where the environment asks for it; never raises."""
    target = os.environ.get(ASKED_BY)
    if not target:
        return
    try:
        from scheduler.record.hooks import install

        install(target)
    except Exception as error:
        import logging

        logging.getLogger("vllm.graphpool").warning("graphpool does not record: %r", error)
