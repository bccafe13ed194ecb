"""A key for what is not modelled points to the page, and to a row that is there."""

from __future__ import annotations

import pytest
from command_line import ROOT

from scheduler.workload.file.not_modelled import _ROWS, not_modelled


def test_every_row_that_a_message_names_is_on_the_page():
    page = (ROOT / "docs" / "not_modelled.md").read_text(encoding="utf-8")
    assert [row for _, row in _ROWS if f"\n| {row}" not in page] == []


@pytest.mark.parametrize(
    ("word", "row"),
    [
        ("data_parallel_size", "several GPUs"),
        ("enable-dp-attention", "several GPUs"),
        ("tp", "several GPUs"),
        ("max_loras", "LoRA adapters"),
        ("cudagraph_specialize_lora", "LoRA adapters"),
        ("medusa_heads", "speculative decoding"),
        ("disaggregation_mode", "several servers"),
        ("cpu_offload_gb", "swapping KV blocks"),
        ("piecewise", "graph modes"),
    ],
)
def test_words_of_engines_lead_to_their_row(word, row):
    assert row in not_modelled(word)


@pytest.mark.parametrize("word", ["max_num_seq", "ratee_per_s", "sizes", "templates", "stop", 5, None])
def test_other_words_lead_nowhere(word):
    assert not_modelled(word) == ""


@pytest.mark.parametrize("word", ["num_speculative_tokens", "eagle", "speculative_config"])
def test_words_of_drafting_lead_to_its_section(word):
    assert "engine.speculation" in not_modelled(word)
