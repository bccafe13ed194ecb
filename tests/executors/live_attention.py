"""Attention that follows each row's live length, for a CPU: stands in for the flash kernel a GPU has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from scheduler.executors.real import static_decoder


class LiveAttention:
    """Gathers each row's place from wherever it starts: rows in any order, one launch for all lengths."""

    name = "flash"
    needs_ordered_rows = False
    buckets: tuple[int | None, ...] = (None,)

    def __init__(self, max_context: int, max_rows: int, device: torch.device) -> None:
        self._column = torch.arange(max_context, device=device)

    def decode(self, rows: int, bucket: int | None, positions: Any, starts: Any) -> Any:
        live = self._column.unsqueeze(0) <= positions[:rows].unsqueeze(1)
        index = torch.where(live, starts[:rows].unsqueeze(1) + self._column, starts[:rows].unsqueeze(1))

        def attend(query: Any, keys: Any, values: Any) -> Any:
            kv_heads, head_dim = keys.shape[1:]
            out = F.scaled_dot_product_attention(
                query.view(rows, kv_heads, -1, head_dim),
                keys[index].transpose(1, 2),
                values[index].transpose(1, 2),
                attn_mask=live.view(rows, 1, 1, -1),
            )
            return out.reshape(query.shape)

        return attend


def use_live_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let "auto" and "flash" take LiveAttention on a CPU."""
    monkeypatch.setattr(static_decoder, "check_flash", lambda *args: None)
    monkeypatch.setattr(static_decoder, "FlashAttention", LiveAttention)
