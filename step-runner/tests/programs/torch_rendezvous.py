"""What `torch.distributed.init_process_group("env://")` does with its variables, without torch, which is 3 GB.

Rank 0 serves a store at MASTER_ADDR:MASTER_PORT. Every rank, also 0, adds itself and waits until WORLD_SIZE have; then each reads what
all have put there.
"""

import json
import os
import socket
import threading

rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
# torchrun reads these in place of the others.
assert (os.environ["PET_MASTER_ADDR"], int(os.environ["PET_MASTER_PORT"])) == address
assert (os.environ["PET_NNODES"], os.environ["PET_NODE_RANK"]) == (str(size), str(rank))
assert os.environ["PET_MAX_RESTARTS"] == "0" and os.environ["LOCAL_RANK"] == "0"


def serve(server):
    ranks, peers = {}, []
    while len(ranks) < size:
        peer = server.accept()[0].makefile("rw")
        ranks.update(json.loads(peer.readline()))
        peers.append(peer)
    for peer in peers:
        print(json.dumps(ranks), file=peer, flush=True)


if rank == 0:
    threading.Thread(target=serve, args=[socket.create_server(address)]).start()
# Once: what connects before rank 0 listens would be refused.
store = socket.create_connection(address).makefile("rw")
print(json.dumps({rank: os.environ["TRAINYARD_ROLE"]}), file=store, flush=True)
ranks = json.loads(store.readline())
print(f"rank {rank} of {size} sees {sorted(ranks)}", flush=True)
