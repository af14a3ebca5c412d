"""What an import has found, for the screen."""

import collections

import jax

from automix_jax.weights.convert import Pretrained, Report


def describe(pretrained: Pretrained, report: Report) -> str:
    """A few lines: the network, and what matched, is missing, was left over and was converted."""
    options = "".join(f", {name} {value}" for name, value in pretrained.options.items())
    classes = f"{pretrained.num_classes} classes" if pretrained.num_classes else "no classifier"
    count = sum(leaf.size for leaf in jax.tree.leaves(pretrained.variables["params"]))
    groups = collections.Counter(name.split(".")[0] for name in report.matched)
    lines = [
        f"{pretrained.name}{options}: {count:,} parameters, {classes}, in {report.naming} names",
        f"matched    {len(report.matched)} tensors: "
        + ", ".join(f"{group} ({number})" for group, number in groups.items()),
        f"missing    {', '.join(report.missing) or 'none'}",
        f"left over  {', '.join(report.left_over) or 'none'}",
    ]
    for dtype, names in report.dtypes.items():
        lines.append(f"converted  {len(names)} tensors from {dtype} to float32")
    return "\n".join(lines)
