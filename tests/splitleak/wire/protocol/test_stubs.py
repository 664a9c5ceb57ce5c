"""The committed stubs are those of the committed contract."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
STUBS = ("open_inference_pb2.py", "open_inference_pb2.pyi", "open_inference_pb2_grpc.py")


@pytest.mark.slow
def test_committed_stubs_are_what_the_contract_generates(tmp_path):
    pytest.importorskip("grpc_tools")
    subprocess.run([sys.executable, ROOT / "proto/generate.py", tmp_path], check=True, timeout=60)
    for name in STUBS:
        generated = (tmp_path / "splitleak/wire/protocol/pb" / name).read_text()
        committed = (ROOT / "splitleak/wire/protocol/pb" / name).read_text()
        assert committed == generated, f"{name} is stale: run make stubs"
