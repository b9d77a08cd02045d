#!/usr/bin/env bash
# Several nodes: run this on every one of them, with the same arguments.
#
#   NODES=4 HEAD=node0 launch/multinode.sh classify --config F --run_dir /shared/runs/x
#
#   NODES      number of nodes
#   HEAD       host name of the node where the others meet
#   PORT       its port (29500)
#   PROCESSES  processes of each node (its GPUs, or 1)
#   JOB        a name that the nodes of one run share (dist_oaa)
#
# run_dir must lie on storage that all nodes see. Where that is a network file system, give the
# shards a local disk: --store.local_dir /scratch/oaa
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # each rank sets its own threads; this quiets torchrun
: "${NODES:?set NODES to the number of nodes}" "${HEAD:?set HEAD to the meeting node}"
processes=${PROCESSES:-$(python3 -c 'import torch; print(torch.cuda.device_count() or 1)')}
exec torchrun --nnodes "$NODES" --nproc-per-node "$processes" \
  --rdzv-backend c10d --rdzv-endpoint "$HEAD:${PORT:-29500}" --rdzv-id "${JOB:-dist_oaa}" \
  --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
  -m dist_oaa "$@"
