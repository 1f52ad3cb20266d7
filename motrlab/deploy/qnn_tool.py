"""Qualcomm's compiler and simulator in a process of its own, through the package `onnxruntime-qnn`.

    python qnn_tool.py compile MODEL.onnx CONTEXT.onnx '{"soc_model": "43"}'
    python qnn_tool.py run CONTEXT.onnx PIPE OPTIONS

Run by `compile_qnn.py`, one process for each graph: a second graph in one process fails there. Only the package, ONNX
Runtime and NumPy are needed, so the Python may be another than motrlab's. What it prints last says what went wrong.
"""

from __future__ import annotations

import json
import sys
from multiprocessing.connection import Connection
from typing import Any

PROVIDER = "QNNExecutionProvider"


def session(model: str, options: dict[str, str], context: str = "") -> Any:
    """A model on Qualcomm's HTP, nothing on the CPU; with `context` its binary is written there."""
    import onnxruntime
    import onnxruntime_qnn

    onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if context:
        settings.add_session_config_entry("ep.context_enable", "1")
        settings.add_session_config_entry("ep.context_file_path", context)
        settings.add_session_config_entry("ep.context_embed_mode", "0")
    found = {"backend_path": onnxruntime_qnn.get_qnn_htp_path()} | options
    settings.add_provider_for_devices(devices[:1], found)
    # That one gives products in float, whose bias is float, too, an integer bias that HTP has no kernel for.
    return onnxruntime.InferenceSession(model, settings, disabled_optimizers=["WeightBiasQuantization"])


def serve(model: str, number: int, options: dict[str, str]) -> None:
    """Answers (names of outputs, inputs) on an open pipe with the outputs, until the other side closes it."""
    network = session(model, options)
    with Connection(number) as connection:
        while True:
            try:
                names, inputs = connection.recv()
            except EOFError:
                return
            connection.send(network.run(names, inputs))


def versions() -> dict[str, str]:
    """Of the packages that compile."""
    import onnxruntime
    import onnxruntime_qnn
    from onnxruntime_qnn.build_and_package_info import qnn_version

    return {"onnxruntime-qnn": onnxruntime_qnn.__version__, "qnn": qnn_version, "onnxruntime": onnxruntime.__version__}


def main() -> None:
    verb, *arguments = sys.argv[1:]
    if verb == "versions":
        print(json.dumps(versions()))
    elif verb == "compile":
        session(arguments[0], json.loads(arguments[2]), arguments[1])
    else:
        serve(arguments[0], int(arguments[1]), json.loads(arguments[2]))


if __name__ == "__main__":
    main()
