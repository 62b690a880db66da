"""Compiles the CUDA kernels without a GPU: NVRTC as the engine calls it, then ptxas for every architecture in use.

    python3 -m venv .venv && .venv/bin/pip install -r scripts/gpu/requirements.txt
    .venv/bin/python scripts/gpu/ptx.py [--keep FOLDER]

Prints registers, shared memory and spills of every kernel, and fails where one does not compile.
"""

import argparse
import ctypes
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nvidia.cu13

ROOT = Path(__file__).resolve().parents[2]
TOOLKIT = Path(next(iter(nvidia.cu13.__path__)))
# The targets of crates/ettin-gpu/src/cuda.rs, and what drivers make of them.
TARGETS = [
    ("portable", "compute_75", ["sm_75"]),
    ("tensor-cores", "compute_80", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]),
]


def source(name: str) -> bytes:
    """The CUDA source as crates/ettin-gpu/src/sources.rs puts it together."""
    crate = ROOT / "crates" / "ettin-gpu"
    included = re.findall(r'include_str!\("\.\./(kernels/[\w.]+)"\)', (crate / "src" / "sources.rs").read_text())
    files = ["kernels/prelude.cu", *(file for file in included if file.endswith(".h"))]
    if name == "tensor-cores":
        files.append("kernels/attention_mma.cu")
    return b"".join((crate / file).read_bytes() for file in files)


def nvrtc(code: bytes, arch: str) -> bytes:
    # NVRTC opens its second library by name: it must be there already, as the loader does not know this folder.
    for name in ("libnvrtc-builtins.so.*", "libnvrtc.so.*"):
        library = ctypes.CDLL(str(next((TOOLKIT / "lib").glob(name))), mode=ctypes.RTLD_GLOBAL)
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), code, b"ettin.cu", 0, None, None)
    options = (ctypes.c_char_p * 1)(f"--gpu-architecture={arch}".encode())
    status = library.nvrtcCompileProgram(program, 1, options)
    size = ctypes.c_size_t()
    if status != 0:
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, log)
        sys.exit(f"NVRTC refuses the kernels for {arch}:\n{log.value.decode()}")
    library.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    library.nvrtcGetPTX(program, ptx)
    return ptx.value


def assemble(ptx: Path, arch: str) -> None:
    """Prints what each kernel takes."""
    command = [TOOLKIT / "bin" / "ptxas", "--verbose", f"--gpu-name={arch}", ptx, "--output-file", ptx.with_suffix(f".{arch}.cubin")]
    report = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr
    for kernel in report.split("Compiling entry function '")[1:]:
        name = kernel.split("'")[0]
        found = [re.search(pattern, kernel) for pattern in (r"Used (\d+) registers", r"(\d+) bytes smem", r"(\d+) bytes spill stores")]
        registers, shared, spilled = (match[1] if match else "0" for match in found)
        print(f"{arch:7} {name:24} {registers:>3} registers {shared:>6} B shared {spilled:>4} B spilled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder for sources, PTX and cubins")
    keep = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name, arch, machines in TARGETS:
            code = source(name)
            (folder / f"{name}.cu").write_bytes(code)
            ptx = folder / f"{name}.ptx"
            ptx.write_bytes(nvrtc(code, arch))
            for machine in machines:
                assemble(ptx, machine)


if __name__ == "__main__":
    main()
