"""Each PyTorch process adds its part to one sum, over gloo."""

import torch
import torch.distributed

torch.distributed.init_process_group("gloo")
rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
total = torch.tensor([10.0**rank])
torch.distributed.all_reduce(total)
print(f"{size} processes: sum {total.item():.0f}", flush=True)
torch.distributed.destroy_process_group()
