"""Matrix products in a fixed order of additions, as Microsoft's RepDL does them (arXiv 2510.09180): three plain loops.

RepDL's own loop has the inner dimension innermost; ours (fixed_order.c) has the columns there, which gives the same
bits in less time. Compiled for this machine, and rows are dealt out to threads. Without a compiler, a loop over the
inner dimension in torch: a fixed order too, multiply and add apart.
"""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC")
Product = Callable[[Tensor, Tensor], Tensor]


def fixed_order_product(threads: int) -> tuple[str, Product]:
    """The product and what to call it."""
    compiler = shutil.which("cc")
    if compiler is None:
        return "fixed-order loop in torch", in_torch
    return "fixed-order FMA (RepDL style)", _compiled(compiler, threads)


def in_torch(a: Tensor, b: Tensor) -> Tensor:
    total = torch.zeros(a.shape[0], b.shape[1])
    for k in range(a.shape[1]):
        total += a[:, k : k + 1] * b[k]
    return total


def _compiled(compiler: str, threads: int) -> Product:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "fixed_order.so"
        source = Path(__file__).with_name("fixed_order.c")
        subprocess.run([compiler, *FLAGS, str(source), "-o", str(library), "-lm"], check=True)
        function = ctypes.CDLL(str(library)).fixed_order  # stays loaded when the file is gone
    function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_ssize_t] * 4
    function.restype = None
    pool = ThreadPoolExecutor(threads)

    def product(a: Tensor, b: Tensor) -> Tensor:
        a, b = a.contiguous(), b.contiguous()
        c = torch.empty(a.shape[0], b.shape[1])
        rows = [len(a) * part // threads for part in range(threads + 1)]

        def work(part: int) -> None:
            function(a.data_ptr(), b.data_ptr(), c.data_ptr(), a.shape[1], b.shape[1], rows[part], rows[part + 1])

        list(pool.map(work, range(threads)))
        return c

    return product
