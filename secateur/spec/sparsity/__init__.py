"""Sparsity: how much is removed, where and in which pattern."""

from secateur.spec.sparsity.choices import SURVEY_TOKENS, Allocation, Channels, Curvature, SurveyTokens
from secateur.spec.sparsity.further import Further, FurtherStatistics, further_folder, further_name
from secateur.spec.sparsity.override import Override
from secateur.spec.sparsity.pattern import Pattern, PatternText
from secateur.spec.sparsity.sparsity import Sparsity, usual_allocation

__all__ = [
    "SURVEY_TOKENS",
    "Allocation",
    "Channels",
    "Curvature",
    "Further",
    "FurtherStatistics",
    "Override",
    "Pattern",
    "PatternText",
    "Sparsity",
    "SurveyTokens",
    "further_folder",
    "further_name",
    "usual_allocation",
]
