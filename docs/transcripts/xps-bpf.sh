uname -r
sysctl -qw net.ipv6.conf.tap0.disable_ipv6=1
ip link set dev tap0 address 02:00:00:00:08:01
ip addr add 10.8.0.1/24 dev tap0
ip neigh add 10.8.0.2 lladdr 02:00:00:00:08:02 dev tap0
echo 1 >/sys/class/net/tap0/queues/tx-0/xps_cpus
echo 2 >/sys/class/net/tap0/queues/tx-1/xps_cpus
grep . /sys/class/net/tap0/queues/tx-*/xps_cpus
mount -t tracefs tracefs /sys/kernel/tracing
echo 1 >/sys/kernel/tracing/events/net/xps_bpf_out_of_range/enable

taskset -c 0 ping -qc1 10.8.0.2 >/dev/null
taskset -c 1 ping -qc1 10.8.0.2 >/dev/null
ip link show dev tap0

ip link set dev tap0 xps obj build/bpf/xps.bpf.o sec queue0
taskset -c 0 ping -qc1 10.8.0.2 >/dev/null
taskset -c 1 ping -qc1 10.8.0.2 >/dev/null
timeout 10 sed 2q /sys/kernel/tracing/trace_pipe

ip link set dev tap0 xps obj build/bpf/xps.bpf.o sec queue1
taskset -c 0 ping -qc1 10.8.0.2 >/dev/null
taskset -c 1 ping -qc1 10.8.0.2 >/dev/null
timeout 10 sed 2q /sys/kernel/tracing/trace_pipe

ip link set dev tap0 xps obj build/bpf/xps.bpf.o sec queue2
taskset -c 0 ping -qc1 10.8.0.2 >/dev/null
taskset -c 1 ping -qc1 10.8.0.2 >/dev/null
timeout 10 sed 4q /sys/kernel/tracing/trace_pipe

ip link set dev tap0 xps obj build/bpf/xps.bpf.o sec fall_through
taskset -c 0 ping -qc1 10.8.0.2 >/dev/null
taskset -c 1 ping -qc1 10.8.0.2 >/dev/null
timeout 10 sed 2q /sys/kernel/tracing/trace_pipe
ip link show dev tap0
ip -d link show dev tap0 | grep prog/xps
ip -d -j link show dev tap0 | grep -o '"xps":{.*"count":[0-9]*}'

ip link set dev tap0 xps off
taskset -c 0 ping -qc1 10.8.0.2 >/dev/null
taskset -c 1 ping -qc1 10.8.0.2 >/dev/null
ip link show dev tap0
ip -d -j link show dev tap0 | grep -o '"xps"' || echo no xps
bpftool prog show
