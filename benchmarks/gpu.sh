#!/usr/bin/env bash
# What wants a GPU, a stage at a time; each writes its figures into OUTPUT, and none of them needs the network.
#
#   DATA=train.jsonl HELD_OUT=held_out.jsonl TOKENIZER=folder benchmarks/gpu.sh STAGE OUTPUT
#
#   bench      training, memory, likelihood and sampling against the paper's way, at 12 layers, d 768, 32 x 512 (10 minutes)
#   mdlm, ar   STEPS steps (default 2000) of that arm, bf16, compiled: throughput, MFU and peak memory by step in training_log.json
#   variants   attention backends and modes of torch.compile, to choose `attn_implementation` and `training.compile_mode` by
#   scaling    tokens/s and peak memory against batch, length, width and vocabulary
#   profile    the table of operations of ten steps of each arm
#   study      the whole controlled comparison; resumable
set -euo pipefail
stage=${1:?STAGE: bench, mdlm, ar, variants, scaling, profile or study} output=${2:?OUTPUT folder}
: "${DATA:?training stories, .jsonl}" "${HELD_OUT:?held-out stories, .jsonl}" "${TOKENIZER:=gpt2}"
mkdir -p "$output"
common=(--data "$DATA" --validation_data "$HELD_OUT" --set "data.tokenizer=$TOKENIZER")
case $stage in
  bench)
    python3 -m benchmarks --device cuda --only training memory likelihood sampling --output "$output/gpu.json" ;;
  mdlm | ar)
    python3 training/train.py --preset "controlled-$stage" "${common[@]}" --set "training.max_steps=${STEPS:-2000}" \
      --set training.compile=true --set training.save_every=1000000 --set data.num_workers=4 \
      --output_dir "${RUNS:-/tmp/runs}/$stage" --resume 2>&1 | tee "$output/$stage.log"
    cp "${RUNS:-/tmp/runs}/$stage/training_log.json" "$output/$stage-training_log.json"
    cp "${RUNS:-/tmp/runs}/$stage/run.json" "$output/$stage-run.json" ;;
  variants)
    python3 -m benchmarks.variants --device cuda --modes default reduce-overhead max-autotune-no-cudagraphs \
      --output "$output/variants-gpu.json" ;;
  scaling)
    python3 -m benchmarks.scaling --device cuda --output "$output/scaling-gpu.json" ;;
  profile)
    python3 -m benchmarks.profile --device cuda --output "$output/profile-gpu.md" ;;
  study)
    python3 -m arche_mdlm.commands.main study controlled --preset controlled "${common[@]}" --set training.compile=true \
      --output "$output/controlled" --publish "$output/controlled-comparison" ;;
  *)
    echo "error: STAGE=$stage is not one of bench, mdlm, ar, variants, scaling, profile, study" >&2
    exit 2 ;;
esac
