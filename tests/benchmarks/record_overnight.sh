#!/usr/bin/env bash
# Records the table of the overnight study on tokenised prose: a space-filling set of settings, trained to the end.
# It goes on where it was left. Then 16 of its rows, evenly spread over the ranks, at 8 and 4 times the length.
# usage: record_overnight.sh TRAIN.bin VAL.bin FOLDER [table|rows]   (uint16 token ids of a 50,304-token vocabulary)
set -euo pipefail
train=$1 val=$2 out=$3 what=${4:-all}
here=$(cd "$(dirname "$0")" && pwd)
record() {
  python -m autotune record "$here/../../studies/overnight.toml" --out "$out" --evaluations 20 \
    --set 'base.data={source = "tokens", name = "", subset = "", tokenizer = "", max_tokens = 0}' \
    --set "base.data={path = \"$train\", val_path = \"$val\", vocab_size = 50304, eos_id = 50256}" \
    --set 'base.data={bytes_per_token = 4.05, eval_tokens = 102400}' "$@"
}
table=$out/overnight-table-6144000/table.json
[[ $what == rows ]] || record --trials 320
[[ $what == table ]] && exit
for tokens in 49152000 24576000; do
  record --rows "$table" --trials 16 --tokens $tokens
done
