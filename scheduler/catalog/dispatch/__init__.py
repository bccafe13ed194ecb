"""Which graph each batch takes: the engines' own rules by release, compiled to tables that are only looked up."""
