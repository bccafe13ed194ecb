"""Builds profiles from what people and tools measure: one file per format."""
