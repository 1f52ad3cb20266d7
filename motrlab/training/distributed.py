"""One process or many: the accelerator, and starting processes from a notebook.

`torchrun`, `accelerate launch` and a plain `python` all start `python -m motrlab train`; what launched it is read from
the environment. On processors the processes talk through gloo, on GPUs through NCCL.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import nn

from motrlab.errors import UserError
from motrlab.machine import num_cpus


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware; elsewhere bf16 is slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def make_accelerator(bf16: bool, *, find_unused: bool = False) -> Accelerator:
    """One process or many, whatever launched us; bf16 where the hardware has it.

    `find_unused`: a step may leave parameters without a gradient. Looking for them costs a walk through the graph.
    """
    AcceleratorState._reset_state()  # or a process could not train again with another precision
    cuda = torch.cuda.is_available()
    supported = torch.cuda.is_bf16_supported() if cuda else cpu_has_bf16()
    ddp = DistributedDataParallelKwargs(find_unused_parameters=find_unused)
    return Accelerator(cpu=not cuda, mixed_precision="bf16" if bf16 and supported else "no", kwargs_handlers=[ddp])


def synchronise_batch_norm(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Statistics over the clips of all processes where the backend can: NCCL.

    Under gloo every process normalises by its own clips, and the running statistics are those of the first process.
    """
    if accelerator.num_processes > 1 and torch.distributed.get_backend() == "nccl":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def is_main_process() -> bool:
    """Whether this process writes files and records: the first of a launch, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def leave() -> None:
    """End the process group, if there is one: a process that only exits leaves a warning."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def launch(arguments: Sequence[str], num_processes: int) -> None:
    """`torchrun -m -- motrlab train ARGUMENTS`, `num_processes` on this machine; prints their output as it comes.

    Raises UserError with the line of the process that failed, RuntimeError if it left none.
    """
    environment = {"OMP_NUM_THREADS": str(max(1, num_cpus() // num_processes)), **os.environ}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    command += ["-m", "--", "motrlab", "train", *arguments]  # without "--", --run would be its own --run-path
    mistake = ""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                mistake = line.strip() if line.startswith("motrlab: ") else mistake
        except BaseException:  # a notebook's interrupt: the processes are not left behind
            process.terminate()
            raise
    if process.returncode and mistake:
        raise UserError(mistake.removeprefix("motrlab: "))
    if process.returncode:
        raise RuntimeError(f"training in {num_processes} processes ended with status {process.returncode}; see above")
