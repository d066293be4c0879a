#!/bin/sh
# Eight GPUs of one machine.  DDP is the default under torchrun; --train.backend fsdp2 shards the
# parameters instead.  The batch is that of all processes together, and so is the gradient.
torchrun --standalone --nproc-per-node 8 -m clip_train run my.toml \
    --train.batch-size 32768 --train.precision bf16 --train.accumulation 4 --loss.tile 4096 \
    --out run
# After an interruption, on any number of processes that divides the batch:
#   torchrun --standalone --nproc-per-node 4 -m clip_train resume run
