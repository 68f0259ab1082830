"""`exact-v1`: arithmetic whose results have the same bits on every machine.

A kernel here never depends on the order of additions, so not on thread count, BLAS library, instruction set or
vendor. Three rules make it so:

- products and sums are done on integers, where every partial sum is exact (`products`, `sums`);
- exp and log are our own polynomials, multiply and add apart, in float64, rounded to float32 once (`functions`);
- results of magnitude 2**-126 or less become +0 (`rounding`), so that machines that flush subnormal numbers and
  machines that keep them agree, and there is no negative zero.

`kernels` is the table from operator names to these functions; `accumulate` adds up the gradients of micro-batches in
any order; `random` is the counter-based generator behind data order.
"""

from typing import Final

ARITHMETIC: Final = "exact-v1"
