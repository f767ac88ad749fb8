"""`trainer.strategy=fsdp`: every device keeps a share of the weights, of their gradients and of the optimiser's state.

Fully sharded data parallel training (ZeRO's third stage; Rajbhandari et al. 2020), by torch's `fully_shard` (FSDP2) in
Lightning's strategy for it. Lightning's older `fsdp` refuses a machine without GPUs, where this one can be tried.
"""

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from sports_lightning.train.module import ClassifierModule

# Parameters of a layer that is gathered by itself, as it is needed; smaller ones go with what they are in.
_GATHERED_AT_ONCE = 1_000_000


class ShardedModule(ClassifierModule):
    """A `ClassifierModule` whose network is spread over all devices. All of it has to learn."""

    def configure_model(self) -> None:
        """Spread the network, once the processes know of each other."""
        net = self.classifier.net
        if any(isinstance(parameter, DTensor) for parameter in net.parameters()):
            return
        device = self.trainer.strategy.root_device
        for tensor in net.state_dict().values():  # the first one's, as with DDP: each will keep a part of its own
            shared = tensor.to(device)
            torch.distributed.broadcast(shared, src=0)
            tensor.copy_(shared)
        mesh = init_device_mesh(device.type, (self.trainer.world_size,))
        net.to(memory_format=torch.contiguous_format)  # the one that fully_shard takes
        for module in reversed(list(net.modules())):  # inner layers first
            if isinstance(module, nn.Sequential | nn.ModuleList):  # what those hold is called as a whole
                for layer in module:
                    if not isinstance(layer, nn.ModuleList) and _unsharded(layer) >= _GATHERED_AT_ONCE:
                        fully_shard(layer, mesh=mesh)
        fully_shard(net, mesh=mesh)

    def on_validation_epoch_start(self) -> None:
        """Validate with the first device's batch statistics, which are those that a checkpoint holds."""
        for buffer in self.classifier.buffers():
            torch.distributed.broadcast(buffer, src=0)


def sharding_strategy() -> ModelParallelStrategy:
    """Lightning's strategy for a `ShardedModule`; its checkpoints hold the whole network, as all others do."""
    return ModelParallelStrategy(save_distributed_checkpoint=False)


def _unsharded(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if not isinstance(parameter, DTensor))
