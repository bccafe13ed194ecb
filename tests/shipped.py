"""The shipped profile that tests take where any would do."""

DEFAULT_PROFILE = "h100-llama-3.1-8b-bf16"
