"""Four processes that stay, so that PyTorch is loaded once for all tests."""

from __future__ import annotations

import importlib
import tempfile
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

SECONDS = 200


def serve(rank: int, orders: Any, answers: Any) -> None:
    """Carry out orders until None comes."""
    torch.set_num_threads(1)
    while (order := orders.get()) is not None:
        module, name, arguments, size, store = order
        try:
            dist.init_process_group(
                "gloo",
                init_method=f"file://{store}",
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=SECONDS),
            )
            getattr(importlib.import_module(module), name)(*arguments)
            answers.put((rank, ""))
        except Exception:  # noqa: BLE001 - the traceback is the answer
            answers.put((rank, traceback.format_exc()))
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


class Processes:
    """The four of them."""

    def __init__(self, size: int = 4) -> None:
        context = mp.get_context("spawn")
        self.answers = context.Queue()
        self.orders = [context.Queue() for _ in range(size)]
        self.members = [
            context.Process(target=serve, args=(r, q, self.answers), daemon=True)
            for r, q in enumerate(self.orders)
        ]
        for member in self.members:
            member.start()

    def __call__(self, function: Any, *arguments: Any, size: int = 4) -> None:
        """Run a function on the first `size` processes; raise what they raised."""
        with tempfile.TemporaryDirectory() as folder:
            store = str(Path(folder) / "store")
            order = (function.__module__, function.__name__, arguments, size, store)
            for orders in self.orders[:size]:
                orders.put(order)
            got = [self.answers.get(timeout=2 * SECONDS) for _ in range(size)]
        failed = [f"process {rank}:\n{text}" for rank, text in sorted(got) if text]
        assert not failed, "\n".join(failed)

    def close(self) -> None:
        for orders in self.orders:
            orders.put(None)
        for member in self.members:
            member.join(timeout=10)
            if member.is_alive():
                member.terminate()
