"""How many tokens a model reads at once, by its configuration."""

from typing import Final

from worker.pruning.model.graph import ModelGraph

NAMES: Final = ("max_position_embeddings", "max_seq_len")
"""What configurations call the number of a model's positions."""
LONGEST_INPUT: Final = 4096
"""Tokens of a task's input, whatever the model could read: logits of more would need memory of their own."""


def positions(graph: ModelGraph) -> dict[str, int]:
    """By the configuration's name."""
    config = graph.config.get_text_config()
    found = {name: getattr(config, name, None) for name in NAMES}
    return {name: count for name, count in found.items() if isinstance(count, int)}


def longest_input(graph: ModelGraph) -> int:
    """Tokens of the longest input of a task."""
    return min([LONGEST_INPUT, *positions(graph).values()])
