"""Another benchmark with ONNX Runtime's kernels for a processor without AVX-512 and VNNI, on one that has them.

    OMP_NUM_THREADS=1 python benchmarks/without_vnni.py benchmarks/fixed_point_vs_fp32.py --run demo

ONNX Runtime asks `cpuid` which kernels to take. In a copy of its library (x86-64 Linux; needs cc and objdump) every
such instruction is made an undefined one, and a signal handler answers it without those features. The rest runs as it
is, at the speed of this processor's AVX2 units, which need not be that of a processor without the others.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import onnxruntime

import motrlab.machine

HIDDEN = r" (avx512\w*|avx_vnni|amx\w*)"
HANDLER = r"""
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <ucontext.h>
static void answer(int number, siginfo_t *info, void *context) {
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    unsigned char *code = (unsigned char *)r[REG_RIP];
    if (code[0] != 0x0f || code[1] != 0x0b) { signal(SIGILL, SIG_DFL); return; }
    unsigned leaf = r[REG_RAX], sub = r[REG_RCX], a, b, c, d;
    __cpuid_count(leaf, sub, a, b, c, d);
    if (leaf == 7 && sub == 0) { b &= ~0xdc230000u; c &= ~0x5842u; d &= ~0x03c0010cu; }
    if (leaf == 7 && sub == 1) a = b = c = d = 0;
    r[REG_RAX] = a; r[REG_RBX] = b; r[REG_RCX] = c; r[REG_RDX] = d; r[REG_RIP] += 2;
}
__attribute__((constructor)) static void install(void) {
    struct sigaction action = {0};
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGILL, &action, 0);
}
"""
_INSIDE = "MOTRLAB_WITHOUT_VNNI"


def main() -> None:
    if _INSIDE in os.environ:
        motrlab.machine.CPUINFO = Path(os.environ[_INSIDE], "cpuinfo")
        del sys.argv[0]
        sys.path.insert(0, str(Path(sys.argv[0]).parent))
        runpy.run_path(sys.argv[0], run_name="__main__")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        hide(folder)
        more = {"LD_PRELOAD": str(folder / "hide.so"), "PYTHONPATH": temporary, _INSIDE: temporary}
        sys.exit(subprocess.run([sys.executable, *sys.argv], env=os.environ | more, check=False).returncode)


def hide(folder: Path) -> None:
    """Leave `onnxruntime/` with patched code, `hide.so` and `cpuinfo` in a folder."""
    shutil.copytree(Path(onnxruntime.__file__).parent, folder / "onnxruntime")
    (library,) = folder.glob("onnxruntime/capi/onnxruntime_pybind11_state*.so")
    listing = subprocess.run(["objdump", "-d", library], capture_output=True, text=True, check=True).stdout
    code = bytearray(library.read_bytes())
    for match in re.finditer(r"^ *([0-9a-f]+):\t0f a2 .*cpuid", listing, re.M):
        place = int(match[1], 16)  # in this library an address is a place in the file
        assert code[place : place + 2] == b"\x0f\xa2", match[0]
        code[place + 1] = 0x0B  # ud2
    library.write_bytes(code)
    (folder / "hide.c").write_text(HANDLER)
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", folder / "hide.so", folder / "hide.c"], check=True)
    (folder / "cpuinfo").write_text(re.sub(HIDDEN, "", Path("/proc/cpuinfo").read_text()))


if __name__ == "__main__":
    main()
