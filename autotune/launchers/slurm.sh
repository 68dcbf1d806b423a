#!/bin/bash
#SBATCH --job-name=@NAME@
#SBATCH --array=0-@LAST@
#SBATCH --output=@NAME@-%A-%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
@OPTIONS@
# Each element of the array is one process of the study; they meet in its database, and whichever dies is replaced.
# Two minutes before the time limit Slurm sends SIGTERM: the process parks, and the element waits for its next turn.

heard=no
term() {
    heard=yes
    interrupted=yes
    kill -TERM "$child" 2>/dev/null
}
trap term TERM

@COMMAND@ &
child=$!

# A trapped signal ends `wait` before the process has ended.
while true; do
    interrupted=no
    wait "$child"
    code=$?
    [ "$interrupted" = yes ] || break
done

# 130 is parked, 143 was ended by SIGTERM before it had begun. What a person has cancelled or parked stays so.
# The number of one element's job is that of the whole array, so that elements are named by both.
element="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
state=$(squeue --noheader --jobs "$element" --format %T)
case $heard-$code-$state in
    yes-130-RUNNING | yes-143-RUNNING) scontrol requeue "$element" && exit 0 ;;
    no-130-*) exit 0 ;;
esac
exit "$code"
