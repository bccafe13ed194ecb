"""vLLM's parser of its own arguments."""

from argparse import ArgumentParser


class FlexibleArgumentParser(ArgumentParser):
    pass
