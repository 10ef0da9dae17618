"""The rotary embedding of a GGUF file as transformers' `rope_parameters`; run in the converter's process.

What llama.cpp computes from the keys `….rope.*` and the tensors of frequency factors is either said exactly by one
of transformers' kinds of scaling (linear, yarn, llama3, longrope), or the file is refused, naming what is not.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from worker.intake.gguf_keys import CODE, WAY_OUT, head_dim, same, unsayable
from worker.model_files.errors import IntakeError

FREQUENCIES: Final = "rope_freqs.weight"
LONG: Final = "rope_factors_long.weight"
SHORT: Final = "rope_factors_short.weight"
FACTORS: Final = (FREQUENCIES, LONG, SHORT)
"""Tensors that are no weights: one factor a frequency."""

KNOWN: Final = frozenset(
    {
        "dimension_count",
        "freq_base",
        "freq_base_swa",
        "scale_linear",
        "scaling.type",
        "scaling.factor",
        "scaling.original_context_length",
        "scaling.attn_factor",
        "scaling.yarn_ext_factor",
        "scaling.yarn_attn_factor",
        "scaling.yarn_beta_fast",
        "scaling.yarn_beta_slow",
        "scaling.yarn_log_multiplier",
        "scaling.finetuned",
    }
)
"""Keys of the rotary embedding that are read here; `finetuned` tells of the model's past and changes nothing."""

LLAMA3_CONTEXT: Final = 8192
"""What the models of this scaling were trained at first; it is in no key."""
CLOSE: Final = 1e-4
"""Relative: frequency factors are stored in 32 bits, and were computed in them."""

Parameters = dict[str, Any]


def settle_rope(
    config: Any, metadata: Mapping[str, Any], factors: Mapping[str, Sequence[float]], used: frozenset[str]
) -> None:
    """Set the configuration's `rope_parameters` where the file says anything about them.

    factors: the tensors of FACTORS that the file has. used: as in `gguf_keys.settle`. Raises IntakeError.
    """
    prefix = f"{metadata['general.architecture']}.rope."
    keys = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    for key, value in keys.items():
        if key not in KNOWN and prefix + key not in used:
            raise unsayable(f"{prefix}{key} ({str(value)[:60]})")
    parameters = getattr(config, "rope_parameters", None)
    if not isinstance(parameters, dict):
        _refuse_without_rope(prefix, keys, factors)
        return
    if any(prefix + key in used for key in keys):  # transformers' newer tables are complete
        _refuse_scaling(prefix, keys, factors)
        return
    whole = parameters.get("full_attention")
    target: Parameters = whole if isinstance(whole, dict) else parameters
    target["rope_theta"] = _kept(target.get("rope_theta"), keys.get("freq_base", 10_000.0))
    if isinstance(local := parameters.get("sliding_attention"), dict) and local is not target:
        local["rope_theta"] = _kept(
            local.get("rope_theta"), keys.get("freq_base_swa", _local_base(metadata, target))
        )
    _settle_width(config, target, prefix, keys)
    scaling = _scaling(config, target, prefix, keys, factors)
    if scaling:
        target.update(scaling)


def _local_base(metadata: Mapping[str, Any], whole: Parameters) -> float:
    """Of the layers with a sliding window: Gemma 3 has its own, others have one for all."""
    return 10_000.0 if metadata["general.architecture"].startswith("gemma3") else float(whole["rope_theta"])


def _kept(found: Any, wanted: float) -> float:
    return float(found) if found is not None and same(found, wanted) else float(wanted)


def _settle_width(config: Any, target: Parameters, prefix: str, keys: Mapping[str, Any]) -> None:
    """Partial rotary embeddings: how many of a head's features are turned."""
    dimensions = keys.get("dimension_count", head_dim(config))
    share = target.get("partial_rotary_factor", 1.0) or 1.0
    if int(head_dim(config) * share) == dimensions:
        return
    if "partial_rotary_factor" not in target:
        raise unsayable(f"{prefix}dimension_count ({dimensions} of {head_dim(config)})")
    target["partial_rotary_factor"] = dimensions / head_dim(config)


def _scaling(
    config: Any, target: Parameters, prefix: str, keys: Mapping[str, Any], factors: Mapping[str, Sequence[float]]
) -> Parameters:
    """The part of `rope_parameters` that scales; empty for none."""
    kind = str(keys.get("scaling.type", "linear"))
    factor = float(keys.get("scaling.factor") or keys.get("scale_linear") or 1.0)
    if LONG in factors or SHORT in factors:
        return _longrope(config, prefix, keys, factors)
    if FREQUENCIES in factors:
        if kind not in ("none", "linear") or factor != 1.0:
            raise unsayable(f"{FREQUENCIES} together with {prefix}scaling.type {kind}")
        return _llama3(config, target, factors[FREQUENCIES])
    attention = float(keys.get("scaling.attn_factor") or keys.get("scaling.yarn_attn_factor") or 1.0)
    if kind == "yarn" and factor != 1.0:
        return _yarn(config, prefix, keys, factor, attention)
    if attention != 1.0:
        raise unsayable(f"{prefix}scaling.attn_factor ({attention:g})")
    if kind == "none" or (factor == 1.0 and kind in ("linear", "yarn")):
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    raise unsayable(f"{prefix}scaling.type ({kind}, without its factors)")


def _yarn(config: Any, prefix: str, keys: Mapping[str, Any], factor: float, attention: float) -> Parameters:
    for key, neutral in (("scaling.yarn_ext_factor", (1.0, -1.0)), ("scaling.yarn_log_multiplier", (0.0,))):
        if key in keys and float(keys[key]) not in neutral:
            raise unsayable(f"{prefix}{key} ({keys[key]})")
    original = keys.get("scaling.original_context_length") or config.max_position_embeddings
    found: Parameters = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": int(original),
        "beta_fast": float(keys.get("scaling.yarn_beta_fast", 32.0)),
        "beta_slow": float(keys.get("scaling.yarn_beta_slow", 1.0)),
    }
    if attention != 1.0:
        found["attention_factor"] = attention * (1.0 + 0.1 * math.log(factor))
    return found


def _longrope(
    config: Any, prefix: str, keys: Mapping[str, Any], factors: Mapping[str, Sequence[float]]
) -> Parameters:
    for name in (LONG, SHORT):
        if name not in factors:
            raise IntakeError(
                CODE, f"The file lacks the tensor {name}, which belongs to its other one; {WAY_OUT}."
            )
    original = keys.get("scaling.original_context_length")
    if original is None:
        raise unsayable(f"{LONG} without {prefix}scaling.original_context_length")
    if hasattr(config, "original_max_position_embeddings"):
        config.original_max_position_embeddings = int(original)
    return {
        "rope_type": "longrope",
        "long_factor": [float(each) for each in factors[LONG]],
        "short_factor": [float(each) for each in factors[SHORT]],
        "original_max_position_embeddings": int(original),
        "factor": config.max_position_embeddings / int(original),
        "attention_factor": float(keys.get("scaling.attn_factor") or 1.0),
    }


def _llama3(config: Any, target: Parameters, factors: Sequence[float]) -> Parameters:
    """Of Llama 3.1 and later, whose parameters are in no key: found again from what they gave."""
    count = int(head_dim(config) * (target.get("partial_rotary_factor") or 1.0)) // 2
    if len(factors) != count or not all(math.isfinite(each) and each > 0 for each in factors):
        raise unsayable(f"{FREQUENCIES} ({len(factors)} factors for {count} frequencies)")
    if all(same(each, 1.0) for each in factors):
        return {}
    base = float(target["rope_theta"])
    frequencies = [base ** (-i / count) for i in range(count)]
    if all(math.isclose(each, factors[0], rel_tol=CLOSE) for each in factors):
        return {"rope_type": "linear", "factor": _rounded(factors[0])}
    for factor, low, high in _candidates(frequencies, factors):
        computed = [_llama3_factor(each, factor, low, high) for each in frequencies]
        if all(math.isclose(a, b, rel_tol=CLOSE) for a, b in zip(computed, factors, strict=True)):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": LLAMA3_CONTEXT,
            }
    raise unsayable(f"{FREQUENCIES} (its factors are not those of a known scaling)")


def _llama3_factor(frequency: float, factor: float, low: float, high: float) -> float:
    turns = _turns(frequency)
    if turns > high:
        return 1.0
    if turns < low:
        return factor
    smooth = (turns - low) / (high - low)
    return 1.0 / ((1 - smooth) / factor + smooth)


def _turns(frequency: float) -> float:
    """How often an embedding of this frequency goes round within the first context."""
    return LLAMA3_CONTEXT * frequency / (2 * math.pi)


def _candidates(frequencies: Sequence[float], factors: Sequence[float]) -> list[tuple[float, float, float]]:
    """(factor, low, high) that may have given the factors: the usual ones, then those on a line through them.

    Scaling low, high and the context alike changes nothing, so that the context may be LLAMA3_CONTEXT always.
    """
    largest = max(factors)
    lowest = _turns(frequencies[list(factors).index(largest)])
    smooth = max(0.0, (lowest - 1.0) / (4.0 - 1.0))
    usual = (1 - smooth) / (1 / largest - smooth) if smooth < 1 / largest else largest
    found = [(_rounded(usual), 1.0, 4.0)]
    # 1 / factor is linear in the turns between the ends. The largest factor counts as the one at the low end.
    points = [
        (_turns(frequency), (1 / each - 1 / largest) / (1 - 1 / largest))
        for frequency, each in zip(frequencies, factors, strict=True)
    ]
    between = sorted((x, y) for x, y in points if 1e-4 < y < 1 - 1e-4)
    low_end = max((x, 0.0) for x, y in points if y <= 1e-4)
    high_ends = [min((x, 1.0) for x, y in points if y >= 1 - 1e-4)] if min(factors) < 1 + 1e-4 else []
    for line in [between] if len(between) > 1 else [[low_end, *between], *([*between, end] for end in high_ends)]:
        if len(line) == 1:
            line = [low_end, *high_ends]
        (x0, y0), (x1, y1) = line[0], line[-1]
        if x1 > x0:
            slope = (y1 - y0) / (x1 - x0)
            found.append((_rounded(largest), x0 - y0 / slope, x0 + (1 - y0) / slope))
    return found


def _rounded(value: float) -> float:
    """What a 32-bit number was before, if that was a plain one."""
    plain = round(value, 3)
    return plain if math.isclose(plain, value, rel_tol=CLOSE) else value


def _refuse_without_rope(prefix: str, keys: Mapping[str, Any], factors: Mapping[str, Sequence[float]]) -> None:
    """Models without rotary embeddings may only say so."""
    _refuse_scaling(prefix, keys, factors)
    for key in ("dimension_count", "freq_base"):
        if keys.get(key):
            raise unsayable(f"{prefix}{key} ({keys[key]})")


def _refuse_scaling(prefix: str, keys: Mapping[str, Any], factors: Mapping[str, Sequence[float]]) -> None:
    for name in factors:
        raise unsayable(name)
    for key, value in keys.items():
        if key.startswith("scaling.") and (key, value) != ("scaling.type", "none"):
            raise unsayable(f"{prefix}{key} ({str(value)[:60]})")
