"""Every process has a number; all of them know the sum, and each is in a Pod of its own."""

import os
import socket

from mpi4py import MPI


def own_address():
    """The address by which rank 0's Pod is reached; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((os.environ["TRAINYARD_RANK0_HOST"], 9))
        return probe.getsockname()[0]


world = MPI.COMM_WORLD
total = world.allreduce(10 ** world.Get_rank(), op=MPI.SUM)
addresses = world.gather(own_address(), root=0)
if world.Get_rank() == 0:
    print(f"{world.Get_size()} processes on {' '.join(sorted(set(addresses)))}: sum {total}", flush=True)
