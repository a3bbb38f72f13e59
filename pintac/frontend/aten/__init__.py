"""The meaning of each supported ATen operation in IR: one table of rules (`table`), filled by one file a family."""

from pintac.frontend.aten import contraction, elementwise, reduction, structure
from pintac.frontend.aten.table import CONSTANT_RESULT, READS_VALUE, RULES, apply_rule

FAMILIES = (contraction, elementwise, reduction, structure)
"""The files that fill the table."""

__all__ = ["CONSTANT_RESULT", "FAMILIES", "READS_VALUE", "RULES", "apply_rule"]
