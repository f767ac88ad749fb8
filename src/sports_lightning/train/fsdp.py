"""`trainer.strategy=fsdp`: weights, gradients and optimizer state are sharded over the devices.

Fully sharded data parallel training (ZeRO stage 3; Rajbhandari et al. 2020) by torch's `fully_shard` (FSDP2), in
Lightning's `ModelParallelStrategy`. Unlike Lightning's `FSDPStrategy`, it also runs on machines without GPUs.
"""

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from sports_lightning.train.module import ClassifierModule

# A layer with at least this many parameters is sharded as its own unit; smaller layers belong to the unit around them.
_LEAST_UNIT = 1_000_000


class ShardedModule(ClassifierModule):
    """A `ClassifierModule` whose network is sharded over all devices. All parameters must be trainable."""

    def configure_model(self) -> None:
        """Shard the network, once the process group is initialized."""
        net = self.classifier.net
        if any(isinstance(parameter, DTensor) for parameter in net.parameters()):
            return
        device = self.trainer.strategy.root_device
        for tensor in net.state_dict().values():  # of rank 0, as with DDP, before each rank keeps its shard
            shared = tensor.to(device)
            torch.distributed.broadcast(shared, src=0)
            tensor.copy_(shared)
        mesh = init_device_mesh(device.type, (self.trainer.world_size,))
        net.to(memory_format=torch.contiguous_format)  # the only one that fully_shard supports
        for module in reversed(list(net.modules())):  # inner layers first
            if isinstance(module, nn.Sequential | nn.ModuleList):  # their children are called as a whole
                for layer in module:
                    if not isinstance(layer, nn.ModuleList) and _count_unsharded(layer) >= _LEAST_UNIT:
                        fully_shard(layer, mesh=mesh)
        fully_shard(net, mesh=mesh)

    def on_validation_epoch_start(self) -> None:
        """Validate with the batch statistics of rank 0, which are those in the checkpoint."""
        for buffer in self.classifier.buffers():
            torch.distributed.broadcast(buffer, src=0)


def sharding_strategy() -> ModelParallelStrategy:
    """Lightning's strategy for a `ShardedModule`; its checkpoints hold the unsharded network, as all others do."""
    return ModelParallelStrategy(save_distributed_checkpoint=False)


def _count_unsharded(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if not isinstance(parameter, DTensor))
