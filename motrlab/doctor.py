"""What a bug report needs to know about this machine."""

import os
import shutil
from pathlib import Path

from motrlab.machine import cpu_flags, hardware, may_saturate, package_versions
from motrlab.run import project_root

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Flag in /proc/cpuinfo → what it is good for here.
_CPU_FEATURES = {
    "avx512_vnni": "fast int8 (VNNI)",
    "avx_vnni": "fast int8 (AVX-VNNI)",
    "avx512_bf16": "bf16 training",
    "amx_bf16": "bf16 training (AMX)",
    "amx_int8": "fast int8 (AMX)",
}


def find_chromium() -> str | None:
    """The path of a Chromium, for tests that look at reports."""
    return next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)


def cpu_features() -> dict[str, bool]:
    """Processor features that this package's speed depends on; all False where Linux does not tell."""
    flags = cpu_flags()
    return {name: name in flags for name in _CPU_FEATURES}


def examine() -> dict[str, str]:
    """Findings by name: versions, processor, folders."""
    root, machine = project_root(), hardware()
    findings = dict(package_versions())
    findings |= {"platform": str(machine["platform"]), "cpu": f"{machine['cpu']}, {machine['num_cpus']} usable"}
    for name, present in cpu_features().items():
        findings[f"cpu {name}"] = f"{'yes' if present else 'no'} ({_CPU_FEATURES[name]})"
    findings["8-bit products"] = "exact by slower kernels: no VNNI" if may_saturate() else "exact on the fast kernels"
    findings["chromium"] = find_chromium() or "none: browser tests are skipped"
    findings["project root"] = str(root)
    runs = sorted(p.parent.name for p in (root / "runs").glob("*/config.json"))
    findings["runs"] = ", ".join(runs) or "none yet"
    mot = os.environ.get("MOTRLAB_MOT_ROOT", "")
    found = mot if Path(mot).is_dir() else f"{mot}: no such folder"
    findings["MOTRLAB_MOT_ROOT"] = found if mot else "not set: tests on real sequences are skipped"
    return findings
