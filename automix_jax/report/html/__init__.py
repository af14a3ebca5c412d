"""A page that tells of a run, or compares several: one HTML file that needs no server."""

from automix_jax.report.html.write import write_report

__all__ = ["write_report"]
