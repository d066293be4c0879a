#!/bin/sh
# Eight GPUs of one machine. DDP is the default under torchrun; --train.backend fsdp2 shards the
# parameters instead. The batch size is global, and the gradient is that of the global batch.
torchrun --standalone --nproc-per-node 8 -m clip_train run my.toml \
    --train.batch_size 32768 --train.precision bf16 --train.grad_accum_steps 4 --loss.tile 4096 \
    --out run
# To resume, on any number of processes that divides the batch size:
#   torchrun --standalone --nproc-per-node 4 -m clip_train resume run
