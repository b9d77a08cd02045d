#!/usr/bin/env bash
# One node, all its GPUs (or N processes on its CPU):
#
#   launch/torchrun.sh classify --config configs/voc12/oaa_resnet50.yaml
#   PROCESSES=2 launch/torchrun.sh classify --config configs/demo/classify.yaml
#
# After a stop, the same command with --resume goes on from the last checkpoint. With
# MAX_RESTARTS=3 ranks that fail are started again, and go on by themselves, up to three times.
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # each rank sets its own threads; this quiets torchrun
processes=${PROCESSES:-$(python3 -c 'import torch; print(torch.cuda.device_count() or 1)')}
restarts=${MAX_RESTARTS:-0}
# torchrun's key-value store would keep what the ranks of the attempt before have left in it.
((restarts)) && export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec torchrun --standalone --nproc-per-node "$processes" --max-restarts "$restarts" \
  --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
  -m dist_oaa "$@"
