"""`--explain`: a run's stages as a table, before anything is spent."""

from llama3_jax.core.params import count_params
from llama3_jax.model.llama import Llama, flops_per_token
from llama3_jax.train.recipe import Plan
from llama3_jax.train.run_config import PretrainConfig

HEADER = ("stage", "first step", "steps", "tokens", "sequence", "rows", "learning rate", "FLOPs", "mixture")


def explain(config: PretrainConfig) -> str:
    """Model size and every segment: steps, tokens, batch shape, learning rate from and to, FLOPs, mixture.

    FLOPs count 6 per matmul weight and token plus causal attention; rematerialisation is not counted.
    """
    plan = Plan(config.recipe)
    rows: list[tuple[str, ...]] = [HEADER]
    total_flops = 0.0
    for segment in plan.segments:
        tokens = segment.end_tokens - segment.start_tokens
        flops = tokens * flops_per_token(config.model, segment.sequence_length)
        total_flops += flops
        rates = [plan.learning_rate(step) for step in (segment.start_step, segment.end_step - 1)]
        rows.append(
            (
                segment.stage,
                f"{segment.start_step:,}",
                f"{segment.num_steps:,}",
                _short(tokens),
                f"{segment.sequence_length:,}",
                f"{segment.batch_rows:,}",
                f"{rates[0]:.3g} to {rates[1]:.3g}",
                f"{flops:.3g}",
                ", ".join(f"{name} {weight:.0%}" for name, weight in _shares(segment.weights)),
            )
        )
    averaged = plan.averaged_steps()
    lines = [
        f"{count_params(Llama(config.model)):,} parameters, {config.model.num_layers} layers; "
        f"{plan.total_steps:,} steps, {plan.tokens(plan.total_steps):,} tokens, {total_flops:.3g} FLOPs "
        "(causal attention, no rematerialisation)",
        *_table(rows),
    ]
    if averaged:
        lines.append(
            f"final model: average of the checkpoints after steps {', '.join(f'{step:,}' for step in averaged)}"
        )
    return "\n".join(lines)


def _shares(weights):
    total = sum(weights.values())
    return [(name, weight / total) for name, weight in weights.items()]


def _short(count: int) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.4g}{unit}"
    return str(count)


def _table(rows) -> list[str]:
    """Columns padded to their widest cell, numbers to the right, first and last to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in (0, last) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
