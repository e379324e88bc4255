"""A process of its own for Triton, which reads TRITON_INTERPRET once, when it is imported.

python triton_process.py interpret INPUTS OUTPUTS    {name: (teacher, student)} to {name: (loss, grad a, grad b)}
python triton_process.py compile                     {kernel: bytes of stack} as JSON, for an H100 that need not be here
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cikd_cli.kernels import relation_kl_cuda


def interpret(inputs: str, outputs: str) -> None:
    assert relation_kl_cuda.available()
    cases = torch.load(inputs)
    torch.save({name: relation_kl_cuda.fused_relation_kl(*case) for name, case in cases.items()}, outputs)


def compile_for_h100() -> None:
    """ViT-Base teaching ViT-Tiny in bf16. Registers that spill live on the stack."""
    stacks = {}
    for kernel in (relation_kl_cuda._queries_kernel, relation_kl_cuda._keys_kernel):
        settings = relation_kl_cuda.compile_settings(64, 16, float32=False)
        constants = {name: settings.pop(name) for name in list(settings) if name.isupper()}
        types = {name: argument_type(name) for name in kernel.arg_names}
        aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(types) if types[name][0] in "*i"}
        source = ASTSource(kernel, types, constants, aligned)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=settings)
        stacks[kernel.__name__] = stack_of(compiled.asm["cubin"])
    sys.stdout.write(json.dumps(stacks))


def argument_type(name: str) -> str:
    if name.isupper():
        return "constexpr"
    if name.startswith("scale"):
        return "fp32"
    if name in ("row_loss", "lse_t", "lse_s"):
        return "*fp32"
    return "*bf16" if name in ("a_t", "b_t", "a_s", "b_s", "grad_a", "grad_b") else "i32"


def stack_of(cubin: bytes) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        usage = subprocess.run([tool, "-res-usage", path], capture_output=True, text=True, check=True)
    return int(re.search(r"STACK:(\d+)", usage.stdout + usage.stderr)[1])


if __name__ == "__main__":
    {"interpret": interpret, "compile": compile_for_h100}[sys.argv[1]](*sys.argv[2:])
