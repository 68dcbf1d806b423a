#!/usr/bin/env bash
# On tokenised prose, with the space of the overnight study (uint16 token ids of a 50,304-token vocabulary):
#   table: a space-filling set of 320 settings, trained to the end; kept as overnight_h100.json
#          (of it, 64 rows at an eighth of the length are overnight_h100_eighth.json, and 16 on an eighth of the text, which
#          they read as often as the rows of 8 times the length do theirs, are overnight_h100_cut.json)
#   rows:  16 of that table's rows, evenly spread over its ranks, at 8 and 4 times the length
#   once, often: a study whose winner is promoted to 16 times a trial's length, and pairs of a batch and a learning rate at
#          that length: the run reads its text once, or 6 times what is a sixth of it (three trainings at a time)
#   live:  a whole study whose default is the seed's hand-tuned configuration, in our trainer: 100 trials at most, finals
#          on 5 pairs or more, attribution
# Each goes on where it was left.
# usage: overnight_prose.sh TRAIN.bin VAL.bin FOLDER table|rows|once|often|live
set -euo pipefail
train=$1 val=$2 out=$3 what=$4
here=$(cd "$(dirname "$0")" && pwd)
prose() {
  local command=$1
  shift
  python -m autotune "$command" "$here/../../studies/overnight.toml" --out "$out" \
    --set 'base.data={source = "tokens", name = "", subset = "", tokenizer = "", max_tokens = 0}' \
    --set "base.data={path = \"$train\", val_path = \"$val\", vocab_size = 50304, eos_id = 50256}" \
    --set 'base.data={bytes_per_token = 4.05, eval_tokens = 102400}' "$@"
}
# The default settings and ranges when the tables were recorded.
recorded=(--set base.system.micro_batch_size=24
  --set 'base.model={num_heads = 8, num_kv_heads = 4, init_std = 0.02}'
  --set 'base.optim={muon_lr = 0.02, adamw_lr = 0.003, muon_momentum = 0.95, weight_decay = 0.0, grad_accum_steps = 1}'
  --set 'space."optim.grad_accum_steps"={low = 1, high = 4, log = true}'
  --set 'space."optim.adamw_lr"={low = 0.0005, high = 0.02, log = true, limits = [0.0001, 0.1]}')
case $what in
table) prose record --evaluations 20 --trials 320 "${recorded[@]}" ;;
rows)
  for tokens in 49152000 24576000; do
    prose record --evaluations 20 --rows "$here/overnight_h100.json" --trials 16 --tokens $tokens "${recorded[@]}"
  done
  ;;
once | often)
  text=$train
  if [ "$what" = often ]; then
    text=$out/sixth.bin
    mkdir -p "$out" && head -c $((15728640 / 6 * 2)) "$train" > "$text"
  fi
  name=$what${SEED:+-$SEED}
  prose run --set "name=\"$name\"" --set "seed=${SEED:-1}" --set 'budget={tokens = 983040, trials = 24, ends_early = false}' \
    --set base.system.micro_batch_size=2 --set 'base.data.eval_tokens=204800' \
    --set "base.data={path = \"$text\"}" --set 'promote={tokens = 15728640, automatic = true}' \
    --set finals.attribute_seeds=0
  python "$here/bench_promotion.py" "$out/$name" --gpus 1 --jobs 3 --batches ${BATCHES:-2 4 8 16} --rates ${RATES:-0.5 1 2 4}
  ;;
live)
  # Its learning rate is Muon's and a tenth of it AdamW's; 5 % warm-up, cosine to 5 %, 16 experts, dropout 0.05.
  prose run "${recorded[@]}" --set 'name="overnight-live"' --set 'budget={trials = 100, ends_early = false}' \
    --set 'base.optim={muon_lr = 0.065, adamw_lr = 0.0065, grad_accum_steps = 2, warmup_frac = 0.05}' \
    --set 'base.optim={schedule = "cosine", final_lr_frac = 0.05}' \
    --set 'base.model={num_experts = 16, dropout = 0.05}' \
    --set 'space={"optim.schedule" = {choices = ["cosine", "wsd"]}}' \
    --set 'finals={finalists = 3, prove_seeds = 5}' --set 'promote={tokens = 49152000}'
  ;;
*) echo "what is to be done: table, rows, once, often or live" >&2 && exit 2 ;;
esac
