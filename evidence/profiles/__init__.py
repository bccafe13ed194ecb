"""How each shipped profile is built from published or own measurements.

- `layer_prefill.py` Prefill work by tokens, from tables of single layers: aiconfigurator's GEMMs or Vidur's layer profile.
- `shipped.py` How each shipped profile is built: `python -m evidence.profiles.shipped DATA OUT`.
- `torch_decoder.py` A profile from this project's own decoder measured on a GPU: a decode grid (CSV) and facts (JSON lines).
"""
