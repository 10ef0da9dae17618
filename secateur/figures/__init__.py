"""Pictures of what jobs did: the API's answers in, matplotlib's figures out. They need the extra `figures`.

    figure = perplexity_matrix(client.evaluation(job))
    figure            # a notebook shows it
    png(figure)       # its bytes, the same for the same answers

No function asks a server or a display for anything.
"""

from secateur.figures.curves import by_depth, perplexity_over_sparsity
from secateur.figures.evaluation import comparison, perplexity_matrix
from secateur.figures.heat import allocation, sensitivity_by_block, sensitivity_by_matrix
from secateur.figures.lineage import lineage_tree
from secateur.figures.style import Record, png

__all__ = [
    "Record",
    "allocation",
    "by_depth",
    "comparison",
    "lineage_tree",
    "perplexity_matrix",
    "perplexity_over_sparsity",
    "png",
    "sensitivity_by_block",
    "sensitivity_by_matrix",
]
