#!/usr/bin/env bash
# Several nodes: run this on every one of them, with the same arguments.
#
#   NODES=4 HEAD=node0 launch/multinode.sh classify --config F --run_dir /shared/runs/x
#   NODES=1:4 HEAD=node0 launch/multinode.sh ...    # goes on with fewer when nodes are lost
#
#   NODES         number of nodes, or the fewest and the most (1:4)
#   HEAD          host name of the node where the others meet
#   PORT          its port (29500)
#   PROCESSES     processes of each node (its GPUs, or 1)
#   JOB           a name that the nodes of one run share (dist_oaa)
#   MAX_RESTARTS  how often a node starts its ranks again after a failure (0; 3 for a range)
#   ADDRESS       this node's address for the others, where its host name does not lead to it
#   RENDEZVOUS    torchrun's --rdzv-conf, such as last_call_timeout=10
#
# run_dir must lie on storage that all nodes see. Where that is a network file system, give the
# shards a local disk: --store.local_dir /scratch/oaa. More in docs/multinode.md.
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # each rank sets its own threads; this quiets torchrun
: "${NODES:?set NODES to the number of nodes}" "${HEAD:?set HEAD to the meeting node}"
processes=${PROCESSES:-$(python3 -c 'import torch; print(torch.cuda.device_count() or 1)')}
[[ $NODES == *:* ]] && restarts=${MAX_RESTARTS:-3} || restarts=${MAX_RESTARTS:-0}
options=()
[[ -n ${ADDRESS:-} ]] && options+=(--local-addr "$ADDRESS")
[[ -n ${RENDEZVOUS:-} ]] && options+=(--rdzv-conf "$RENDEZVOUS")
# torchrun's key-value store would keep what the ranks of the attempt before have left in it, and
# lives on a node that may be the one that is lost: each attempt makes one of its own.
((restarts)) && export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec torchrun --nnodes "$NODES" --nproc-per-node "$processes" --max-restarts "$restarts" \
  --rdzv-backend c10d --rdzv-endpoint "$HEAD:${PORT:-29500}" --rdzv-id "${JOB:-dist_oaa}" \
  "${options[@]}" --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
  -m dist_oaa "$@"
