#!/usr/bin/env python3
"""What this host is: GPU, driver, libraries, programs; also cuDNN's own description of the GPU, with which plans for it can be made
on hosts without one (tests/support/cuda/h200_properties.json is such a file).

    host.py [--properties FILE] [--device cuda|cpu]     with cpu no GPU is asked for"""
import argparse
import ctypes
import glob
import json
import os
import platform
import shutil
import subprocess
import sys

import common

# Numbers of cudnn_graph.h (cuDNN 9).
DEVICEPROP_DESCRIPTOR = 38
ATTR_HANDLE, ATTR_JSON = 2701, 2702
TYPE_HANDLE, TYPE_CHAR = 0, 24


def output_of(*command, limit_s=30):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit_s, check=False,
                              env=common.environment(), stdin=subprocess.DEVNULL)
        return done.stdout.strip() if done.returncode == 0 else f"exit code {done.returncode}: {done.stdout.strip()[-500:]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not there: {error}"


def libraries():
    """Real file names of the CUDA libraries in sight: their versions."""
    names = set()
    for folder in common.cuda_path().split(":"):
        for pattern in ("libcublasLt.so.*", "libcudnn.so.*", "libnccl.so.*", "libcudart.so.*"):
            names.update(os.path.realpath(path) for path in glob.glob(os.path.join(folder, pattern)))
    return sorted(names)


def load_cudnn():
    for folder in common.cuda_path().split(":"):
        for path in glob.glob(os.path.join(folder, "libcudnn.so.9*")):
            return ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL("libcudnn.so.9", mode=ctypes.RTLD_GLOBAL)


def device_properties():
    """The JSON text that cuDNN has of GPU 0."""
    cudnn = load_cudnn()

    def check(status, what):
        if status != 0:
            raise RuntimeError(f"{what}: cuDNN status {status}")

    handle, descriptor = ctypes.c_void_p(), ctypes.c_void_p()
    check(cudnn.cudnnCreate(ctypes.byref(handle)), "opening cuDNN")
    check(cudnn.cudnnBackendCreateDescriptor(DEVICEPROP_DESCRIPTOR, ctypes.byref(descriptor)), "descriptor")
    check(cudnn.cudnnBackendSetAttribute(descriptor, ATTR_HANDLE, TYPE_HANDLE, ctypes.c_int64(1), ctypes.byref(handle)), "handle")
    check(cudnn.cudnnBackendFinalize(descriptor), "finalizing")
    count = ctypes.c_int64()
    check(cudnn.cudnnBackendGetAttribute(descriptor, ATTR_JSON, TYPE_CHAR, ctypes.c_int64(0), ctypes.byref(count), None), "length")
    text = ctypes.create_string_buffer(count.value + 1)
    check(cudnn.cudnnBackendGetAttribute(descriptor, ATTR_JSON, TYPE_CHAR, count, ctypes.byref(count), text), "text")
    return text.value.decode()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--properties", help="file for cuDNN's description")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args()
    elaswave = common.program("elaswave")
    result = {
        "system": platform.platform(), "libc": " ".join(platform.libc_ver()), "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": output_of("nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.max.mem,"
                         "power.limit,ecc.mode.current", "--format=csv,noheader"),
        "elaswave": output_of(elaswave, "--version") if elaswave else "not there",
        "torch": output_of(sys.executable, "-c", "import torch; print(torch.__version__, torch.backends.cudnn.version())"),
        "cuda_libraries": libraries(),
        "tools": {name: shutil.which(name) for name in ("nvcc", "compute-sanitizer", "ncu", "nsys", "cmake", "ninja", "mpirun")},
    }
    right = elaswave is not None and "exit code" not in result["elaswave"]
    if options.device == "cuda":
        try:
            text = device_properties()
            result["properties"] = json.loads(text)
            if options.properties:
                with open(options.properties, "w", encoding="utf-8") as file:
                    file.write(text)
        except (RuntimeError, OSError, ValueError) as error:
            result["properties"] = f"no: {error}"
            right = False
    lines = [line for line in result["elaswave"].splitlines() if line.startswith("elaswave ")] or [result["elaswave"]]
    result["figures"] = f"{result['gpu']}; {lines[0]}; torch {result['torch'].splitlines()[-1]}"
    return common.finish(result, right)


if __name__ == "__main__":
    sys.exit(main())
