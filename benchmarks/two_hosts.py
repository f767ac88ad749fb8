"""Train on two hosts, each a network namespace of this machine, and on one host. Needs root, for `ip`.

    python benchmarks/two_hosts.py

Both hosts have their own network, joined by a virtual cable, and run `torchrun` with one process each; the second
host does not see the first one's run folder. Exits with an error if the weights are not bit-identical to those of two
processes on one host, or differ from those of one process by more than rounding. (With SGD: Adam divides a vanishing
gradient by its own size, and so turns its rounding error into a step.)
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

HOSTS = {"sl_first": "10.77.0.1", "sl_second": "10.77.0.2"}
SETTINGS = [
    "data=sample", "data.num_workers=0", "data.audit=false", "model=simple_cnn", "model.image_size=64", "logger=csv",
    "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.max_epochs=2", "test=false",
    "trainer.limit_train_batches=8", "optimizer=sgd", "optimizer.lr=0.02",
]  # fmt: skip


def connect() -> None:
    """Create the hosts and the cable between them."""
    for name in HOSTS:
        subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "link", "add", "sl_a", "type", "veth", "peer", "name", "sl_b"], check=True)
    for (name, address), end in zip(HOSTS.items(), ("sl_a", "sl_b"), strict=True):
        subprocess.run(["ip", "link", "set", end, "netns", name], check=True)
        inside = ["ip", "-n", name]
        subprocess.run([*inside, "addr", "add", f"{address}/24", "dev", end], check=True)
        subprocess.run([*inside, "link", "set", end, "up"], check=True)
        subprocess.run([*inside, "link", "set", "lo", "up"], check=True)


def disconnect() -> None:
    """Remove the hosts, and with them the cable."""
    for name in HOSTS:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def start(rank: int, folder: Path, data: Path) -> subprocess.Popen[str]:
    """Start torchrun on a host; the second host sees an empty folder instead of the runs."""
    name = list(HOSTS)[rank]
    end = ("sl_a", "sl_b")[rank]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}",
        f"--master-addr={HOSTS['sl_first']}", "--master-port=29400", "-m", "sports_lightning.train", *SETTINGS,
        f"data.root={data}", "trainer.num_nodes=2", f"hydra.run.dir={folder}/two",
    ]  # fmt: skip
    hidden = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {folder} && exec "$@"', "sh"] if rank else []
    return subprocess.Popen(
        ["ip", "netns", "exec", name, *hidden, "env", f"GLOO_SOCKET_IFNAME={end}", "OMP_NUM_THREADS=1", *command],
        cwd=data.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights of the last checkpoint."""
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def main() -> None:
    """Run the experiment."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, data = Path(scratch, "runs"), Path(scratch, "data")
        folder.mkdir()
        train = [sys.executable, "-m", "sports_lightning.train", *SETTINGS, f"data.root={data}"]
        for devices, name in ((1, "one"), (2, "local")):
            arguments = [f"trainer.devices={devices}", f"hydra.run.dir={folder}/{name}"]
            subprocess.run([*train, *arguments], cwd=scratch, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        disconnect()
        connect()
        try:
            processes = [start(rank, folder, data) for rank in (0, 1)]
            printed = [process.communicate(timeout=300)[0] for process in processes]
        finally:
            disconnect()
        print(*printed, sep="\n--- second host\n")
        assert not any(process.returncode for process in processes)
        assert str(folder / "two") not in printed[1], "the second host prints nothing"
        one, local, two = (weights(folder / name) for name in ("one", "local", "two"))
        assert all(torch.equal(local[name], two[name]) for name in local)
        assert (folder / "local" / "metrics.csv").read_bytes() == (folder / "two" / "metrics.csv").read_bytes()
        largest = max(float((one[name] - two[name]).abs().max()) for name in one)
        assert largest < 1e-5, largest
        print("two hosts and two processes on one: bit-identical")
        print(f"two hosts and one process: no weight differs by more than {largest:.2g}")


if __name__ == "__main__":
    main()
