"""The example's metric as a column of the tables, for `python -m analysis DIR --plugin examples/plugin/column.py`: no torch."""

from analysis.records.columns import COLUMNS, Column, mean_over_members


def value(repeat):
    """The score of whom the arm is judged by; None in studies that were trained without the metric."""
    return mean_over_members(repeat.record.test, repeat.member, "top2")


COLUMNS["top2"] = Column("Top 2 %", value, "scores", "high", 100)
