"""Lays the Python package out as a wheel has it, from a build, and runs test_package.py on it, with the first python3 of PATH
that has NumPy, preferably one with PyTorch. Where none has, exit status 77, or 1 where VMAMBA_TEST_PYTORCH=required.

    run.py BUILD_FOLDER
"""

import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def python_with(modules):
    for python in (sys.executable, *(os.path.join(folder, "python3") for folder in os.get_exec_path())):
        if os.access(python, os.X_OK):
            run = subprocess.run([python, "-c", f"import {modules}"], stderr=subprocess.DEVNULL, check=False)
            if run.returncode == 0:
                return python
    return None


def main():
    required = os.environ.get("VMAMBA_TEST_PYTORCH") == "required"
    python = python_with("numpy, torch") or (None if required else python_with("numpy"))
    if python is None:
        wanted = "PyTorch and NumPy (Debian: python3-torch)" if required else "NumPy (Debian: python3-numpy)"
        print("failed:" if required else "skipped:", f"no python3 of PATH has {wanted}")
        sys.exit(1 if required else 77)
    with tempfile.TemporaryDirectory() as folder:
        package = os.path.join(folder, "vmamba_cli")
        install = ["cmake", "--install", sys.argv[1], "--prefix", package]
        subprocess.run(install, stdout=subprocess.DEVNULL, check=True)
        shutil.copytree(os.path.join(HERE, "../../python/vmamba_cli"), package, dirs_exist_ok=True)
        test = [python, "-B", os.path.join(HERE, "test_package.py")]
        sys.exit(subprocess.run(test, env={**os.environ, "PYTHONPATH": folder}, check=False).returncode)


if __name__ == "__main__":
    main()
