"""Put on a child's path, this replaces the stage pull_dataset by one that misbehaves as its dataset name says."""

import os
import signal
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

GRANDCHILD = """
import sys, time
from transfer_learning import child
child.die_with_parent()
open(sys.argv[1], "w").write("up")
time.sleep(60)
"""


def pull_dataset(spec, inputs, out, run):
    from transfer_learning import errors

    run.progress(phase="started", pid=os.getpid())
    (out / "half.txt").write_text("half")
    match spec.name:
        case "fine":
            (out / "half.txt").rename(out / "whole.txt")
            run.numerics["dtype"] = "float32"
            return {"rows": 3}
        case "bad":
            raise errors.BadInput("EMPTY_FILE", "holds no rows", "send some", file="news.csv")
        case "crash":
            raise ValueError("the middle\nof nowhere")
        case "abort":
            print("last words", flush=True)
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "diverge":
            raise errors.Diverged("DIVERGED loss is NaN at step 7")
        case "onednn":
            raise RuntimeError("could not create a primitive")
        case "cublas":
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        case "memory":
            return {"bytes": len(bytearray(2_000_000_000))}
        case "cpu":
            while True:
                pass
        case "polite":
            while not run.stop_requested:
                time.sleep(0.01)
            raise errors.Stopped("STOPPED at step 3; a retry resumes it")
        case "diligent":
            while not run.stop_requested:
                time.sleep(0.01)
            return {"rows": 3}
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(60)
        case "network":
            socket.create_connection(("192.0.2.1", 80), timeout=1)
        case "datagram":
            socket.socket(type=socket.SOCK_DGRAM).sendto(b"secret", ("192.0.2.1", 53))
        case "environment":
            return dict(os.environ)
        case "family":
            ready = out / "grandchild"
            grandchild = subprocess.Popen([sys.executable, "-c", GRANDCHILD, str(ready)], start_new_session=True)
            while not ready.exists():
                time.sleep(0.01)
            run.progress(phase="family", child=os.getpid(), grandchild=grandchild.pid)
            time.sleep(60)
    return {}


stage = types.ModuleType("transfer_learning.stages.pull_dataset")
stage.pull_dataset = pull_dataset
if Path(sys.argv[0]).name in ("run.py", "-m"):
    sys.modules["transfer_learning.stages.pull_dataset"] = stage
