#!/usr/bin/env bash
# up.sh - starts a throw-away Slurm cluster on this machine: one controller and NODES nodes, all on the loopback device.
#
#   up.sh DIR [NODES=2] [GPUS=2] [CPUS=4]     DIR must not exist or be an earlier cluster that is down; then: . DIR/env
#   down.sh DIR                               stops it
#
# Everything lives in DIR: configuration, state, logs, keys. Needs root and Debian's slurmctld, slurmd (which can be several
# nodes on one machine), slurm-client and munge. FLRQ_SLURM_PORT: first of NODES + 1 ports. GPUs are device nodes that behave
# like /dev/null, so that Slurm counts and binds them and sets CUDA_VISIBLE_DEVICES. Nodes may have more CPUs than the
# machine. What is not as on a real cluster: no cgroups, no accounting, credentials that expire after 5 s instead of 120, so
# that a requeued job starts again within seconds.
set -eu
dir=$(realpath -m "$1") nodes=${2:-2} gpus=${3:-2} cpus=${4:-4}
port=${FLRQ_SLURM_PORT:-18800}
rm -rf "$dir"
mkdir -p "$dir"/{state,dev,log}
chmod 755 "$dir"

dd if=/dev/urandom of="$dir/munge.key" bs=1024 count=1 status=none
chmod 400 "$dir/munge.key"
munged --force --key-file="$dir/munge.key" --socket="$dir/munge.sock" --pid-file="$dir/munged.pid" \
    --log-file="$dir/log/munged.log" --seed-file="$dir/munge.seed" --num-threads=2

gres=
: >"$dir/gres.conf"
if [ "$gpus" -gt 0 ]; then
    for ((i = 0; i < gpus; i++)); do mknod "$dir/dev/gpu$i" c 1 3; done
    gres="Gres=gpu:$gpus"
    cat >"$dir/gres.conf" <<END
AutoDetect=off
NodeName=n[0-$((nodes - 1))] Name=gpu File=$dir/dev/gpu[0-$((gpus - 1))]
END
fi
# Each node has a folder for temporary files of its own: PMIx of two nodes would meet in one.
cat >"$dir/slurm.conf" <<END
ClusterName=flrqtest
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
TmpFS=$dir/tmp.%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
PlugStackConfig=/dev/null
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$dir/log/jobcomp.txt
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,requeue_setup_env_fail
ReturnToService=2
JobRequeue=1
MinJobAge=300
KillWait=5
SlurmctldTimeout=30
SlurmdTimeout=30
MessageTimeout=10
GresTypes=gpu
NodeName=n[0-$((nodes - 1))] NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=$cpus RealMemory=4000 $gres State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
PartitionName=short Nodes=n0 MaxTime=5 State=UP OverSubscribe=NO
END
printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' >"$dir/cgroup.conf"
export SLURM_CONF="$dir/slurm.conf"
echo "export SLURM_CONF=$SLURM_CONF" >"$dir/env"

slurmctld -f "$SLURM_CONF"
for ((i = 0; i < nodes; i++)); do
    mkdir -p "$dir/spool.n$i" "$dir/tmp.n$i"
    slurmd -f "$SLURM_CONF" -N "n$i"
done
for ((tries = 0; tries < 200; tries++)); do
    [ "$(sinfo -h -N -p main -o %T 2>/dev/null | grep -c '^idle$')" = "$nodes" ] && exit 0
    sleep 0.1
done
echo "the cluster did not come up:"
sinfo -N -l || true
tail -n 5 "$dir"/log/*.log
exit 1
